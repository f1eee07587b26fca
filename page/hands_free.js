// Hands-free talk, one round button: idle, listening, thinking, speaking, error. While it is on,
// the microphone's pieces go to the server one call after another, and the server tells when the
// user begins and ends to speak. Follows composer.js, in whose scope it runs.
const round = element.querySelector(".round");
const SEND_SECONDS = 0.16; // of sound in a call, if the server keeps up; 375 calls a minute
const MOST_SECONDS = 2; // in one call, after which another follows
const LOST_MS = 8000; // without an answer to a call, while this page runs
const LONGEST_MS = 100; // from piece to piece; what is longer, this page did not run
const RETRY_MS = 2000;
let state = "idle";
let pieces = []; // not sent yet
let pieceRate = 0;
let numOpened = 0;
let number = 0; // of the call under way, or of the next one; below 0 while it is opened
let toEnd = null; // seconds of silence, after what was sent, that will end the user's speech
let calling = null; // {sound, waited} of the call under way
let heardAt = 0; // when the last piece came
let unanswered = false; // the user has finished, and no reply has begun

function show(next) {
  state = next;
  round.dataset.state = next;
  round.ariaPressed = String(next !== "idle" && next !== "error");
  round.querySelector(".word").textContent = words[`hands_free_${next}`];
  showStop();
}

async function enter() {
  tell("leave");
  tell("silence");
  [pieces, toEnd, unanswered] = [[], null, false];
  number = -(numOpened += 1);
  calling = { waited: 0 };
  show("listening");
  window.pageStatus("listening", "hearing_nothing");
  ask.open({ open: true, number });
  const problem = await window.pageMicrophone.open(hear, fail);
  if (problem) fail(problem);
}

function leave() {
  if (state === "idle") return;
  if (state !== "error") {
    window.pageMicrophone.close();
    ask.open({ open: false });
  }
  calling = null;
  show("idle");
}

function fail(key) {
  if (state === "idle") return;
  window.pageMicrophone.close();
  ask.open({ open: false });
  calling = null;
  show("error");
  window.pageStatus("fault", key);
}

function hear(samples, rate) {
  pieces.push(samples);
  pieceRate = rate;
  round.style.setProperty("--level", Math.min(1, 6 * Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length)).toFixed(2));
  const now = performance.now();
  const waited = Math.min(now - heardAt, LONGEST_MS);
  heardAt = now;
  if (!calling) return call();
  calling.waited += waited;
  if (calling.waited > LOST_MS) fail("connection_lost");
}

function call() {
  const most = Math.round(MOST_SECONDS / 0.02);
  // The sound that may end the speech goes as soon as it is there, and waits for no call before it.
  const wanted = toEnd !== null && toEnd < 1.5 * SEND_SECONDS ? toEnd : SEND_SECONDS;
  if (pieces.length * 0.02 < wanted - 0.001) return;
  calling = { sound: window.pageMicrophone.base64(pieces.slice(0, most)), waited: 0 };
  pieces = pieces.slice(most);
  sendCall();
}

function sendCall() {
  const echo = window.pagePlayer.heard() !== null;
  ask.hear({ number, rate: pieceRate, pcm: calling.sound, echo, ...shown() });
}

function answered({ number: which, change, closed, fault, to_end }) {
  if (which !== number || !calling || state === "idle") return;
  [calling, toEnd] = [null, to_end ?? null];
  number = Math.max(0, number + 1);
  if (closed) return lose(fault);
  if (change === "speech") interrupt();
  if (change === "ended") finish();
}

// The server has closed the microphone, and told why unless a `fault` is to be told here.
function lose(fault) {
  window.pageMicrophone.close();
  show("error");
  if (fault) window.pageStatus("fault", fault);
}

function interrupt() {
  const heard = window.pagePlayer.heard();
  tell("silence");
  if (heard) ask.cut(heard);
  unanswered = false;
  show("listening");
}

function finish() {
  unanswered = true;
  window.pageAsked = performance.now();
  show("thinking");
  window.pageStatus("busy", "thinking");
  ask.heard({});
}

round.onclick = () => {
  if (state === "idle" || state === "error") return enter();
  stop();
};
window.addEventListener("leave", leave);
window.addEventListener("spoken", ({ detail }) => {
  if (state !== "listening" && state !== "thinking" && state !== "speaking") return;
  unanswered = false;
  show(detail ? "speaking" : "listening");
  if (!detail) window.pageStatus("listening", "hearing_nothing");
});
window.addEventListener("status", ({ detail: { kind, by } }) => {
  // A turn that can't be answered, or whose reply has no sound: it listens again.
  if (state === "thinking" && by === "reply" && (kind === "fault" || kind === "note" || !kind)) {
    setTimeout(() => state === "thinking" && !window.pagePlayer.heard() && show("listening"), 300);
  }
});
window.addEventListener("refused", ({ detail: { name } }) => {
  const refused = name === (number < 0 ? "open_microphone" : "hear") ? calling : null;
  if (refused) setTimeout(() => calling === refused && (number < 0 ? ask.open({ open: true, number }) : sendCall()), 500);
  if (name !== "answer_heard" || !unanswered) return;
  window.pageStatus("busy", "waiting");
  setTimeout(() => unanswered && state === "thinking" && ask.heard({}), RETRY_MS);
});
// In another tab nobody would see that a microphone is open.
new ResizeObserver(() => {
  if (element.offsetParent) return;
  if (recording) finishRecording();
  if (state === "listening") window.pageStatus("");
  leave();
}).observe(element);
window.pageHeard = answered;
show("idle");
