// What the user says and shows: text, a recording, files, or all at once. Hands-free talk:
// hands_free.js.
const words = window.pageWords[window.pageLanguage];
const ask = window.pageAsk;
const text = element.querySelector("textarea");
const sendButton = element.querySelector(".send");
const stopButton = element.querySelector(".stop");
const recordButton = element.querySelector(".record");
const file = element.querySelector("input[type=file]");
const slots = Object.fromEntries([...element.querySelectorAll(".attached")].map((slot) => [slot.dataset.kind, slot]));
const MAX_SECONDS = props.max_seconds;
const attached = {}; // what will be sent, by kind: {path, name, url}
let uploading = null;
let busy = false; // the status says that something goes on
let recording = null; // {pieces, rate}

const tell = window.pageTell;
window.pageLabel(element);

function grow() {
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight, 132)}px`;
}

function draft() {
  try {
    sessionStorage.setItem("draft", text.value);
  } catch {} // storage is blocked: a reload loses it
}

function write(words) {
  text.value = words;
  grow();
  draft();
}

function attach(kind, what) {
  const before = attached[kind];
  if (before && before.url !== what?.url) URL.revokeObjectURL(before.url);
  if (what) attached[kind] = what;
  else delete attached[kind];
  slots[kind].hidden = !what;
  slots[kind].querySelector(".name").textContent = what?.name ?? "";
  const shown = slots[kind].querySelector("audio, img, video");
  shown.pause?.();
  shown.hidden = false;
  if (what) shown.src = what.url;
  else shown.removeAttribute("src");
  if (kind === "image") shown.alt = what?.name ?? "";
  if (kind === "audio" && what && Object.keys(attached).length === 1 && !text.value.trim()) ask.prepare({ audio: { path: what.path } });
}

// What a file is, where pictures and videos are seen; sound where they aren't. That phones and
// browsers record sound in files that are called videos, the server finds out.
function kindOf(given) {
  const kind = given.type.split("/")[0];
  return slots[kind] ? kind : "audio";
}

function take(given, name) {
  const mine = (uploading = (async () => {
    window.pageStatus("busy", "uploading");
    try {
      const { path } = await upload(given);
      if (mine !== uploading) return;
      window.pageStatus("");
      attach(kindOf(given), { path, name, url: URL.createObjectURL(given) });
    } catch (error) {
      window.pageStatus("fault", "upload_failed", { reason: error.message ?? error });
    } finally {
      if (mine === uploading) uploading = null;
    }
  })());
  return mine;
}

function showRecording() {
  recordButton.ariaPressed = String(Boolean(recording));
  recordButton.ariaLabel = recording ? words.record_stop : words.record;
  recordButton.title = recordButton.ariaLabel;
  recordButton.classList.toggle("on", Boolean(recording));
}

async function record() {
  tell("leave");
  tell("silence");
  const mine = (recording = { pieces: [], rate: 0, seconds: 0 });
  showRecording();
  const problem = await window.pageMicrophone.open(
    (piece, rate) => {
      if (mine !== recording) return;
      mine.pieces.push(piece);
      mine.rate = rate;
      mine.seconds += piece.length / rate;
      window.pageStatus("recording", "recording_for", { seconds: Math.floor(mine.seconds), max: MAX_SECONDS });
      if (mine.seconds >= MAX_SECONDS - 0.1) finishRecording();
    },
    (key) => {
      finishRecording();
      window.pageStatus("fault", key);
    },
  );
  if (!problem || mine !== recording) return;
  recording = null;
  showRecording();
  window.pageStatus("fault", problem);
}

async function finishRecording() {
  const done = recording;
  recording = null;
  window.pageMicrophone.close();
  showRecording();
  window.pageStatus("");
  if (!done.pieces.length) return window.pageStatus("fault", "error_nothing_heard");
  return take(window.pageMicrophone.wav(done.pieces, done.rate), words.recording_name);
}

function cancelRecording() {
  if (!recording) return;
  recording = null;
  window.pageMicrophone.close();
  showRecording();
}

// What goes with a turn that is spoken, too.
function shown() {
  const { audio, ...seen } = attached;
  return Object.fromEntries(Object.entries(seen).map(([kind, { path }]) => [kind, { path }]));
}

async function send() {
  const asked = performance.now();
  const finished = recording && finishRecording(); // before `leave`, which forgets a recording
  tell("leave");
  await finished;
  await uploading;
  const said = text.value.trim();
  const given = { ...shown(), ...(attached.audio && { audio: { path: attached.audio.path } }) };
  if (!said && !Object.keys(given).length) {
    window.pageStatus("fault", "error_nothing_given");
    return;
  }
  tell("silence");
  window.pageAsked = asked;
  ask.answer({ text: said, ...given });
}

function stop() {
  const heard = window.pagePlayer.heard();
  const ends = isStoppable() || Boolean(uploading || recording);
  if (document.activeElement === stopButton) document.querySelector("#chat .log").focus({ preventScroll: true });
  uploading = null;
  cancelRecording();
  tell("leave");
  tell("silence");
  ask.stop({ ...heard, ends });
}

// There is what Stop would end: a reply that is made or heard, an upload, hands-free talk.
function isStoppable() {
  const { state } = element.querySelector(".round").dataset;
  const isTalking = state !== "idle" && state !== "error";
  return busy || isTalking || window.pagePlayer?.isSpeaking() === true;
}

function showStop() {
  element.querySelector(".composer").classList.toggle("stoppable", isStoppable());
}

// Only what was taken leaves the composer: not what was typed or recorded since.
function receive() {
  const given = JSON.parse(props.value || "{}");
  if (given.saved) {
    const link = document.createElement("a");
    link.href = window.pageAddress(given.saved);
    link.download = "conversation.zip";
    link.click();
    return;
  }
  if (given.text && text.value.trim().startsWith(given.text)) write(text.value.trimStart().slice(given.text.length).trimStart());
  const taken = [given.audio, given.image, given.video];
  for (const [kind, { path }] of Object.entries(attached)) if (taken.includes(path)) attach(kind, null);
}

text.addEventListener("input", () => {
  grow();
  draft();
});
text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  send();
});
window.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.defaultPrevented) stop();
});
sendButton.onclick = send;
stopButton.onclick = stop;
recordButton.onclick = () => (recording ? finishRecording() : record());
element.querySelector(".upload").onclick = () => file.click();
file.onchange = () => {
  if (file.files[0]) take(file.files[0], file.files[0].name);
  file.value = "";
};
for (const [kind, slot] of Object.entries(slots)) {
  const shown = slot.querySelector("img, video");
  // What this browser can't show has its name alone.
  if (shown) shown.onerror = shown.onloadedmetadata = () => (shown.hidden = !shown.videoWidth);
  slot.querySelector(".remove").onclick = () => {
    attach(kind, null);
    text.focus();
  };
}
text.addEventListener("paste", (event) => {
  const [given] = event.clipboardData.files;
  if (!given || !slots.image) return;
  event.preventDefault();
  take(given, given.name);
});
element.addEventListener("dragover", (event) => event.preventDefault());
element.addEventListener("drop", (event) => {
  event.preventDefault();
  const given = event.dataTransfer.files[0];
  if (given) take(given, given.name);
});
window.addEventListener("leave", cancelRecording);
window.addEventListener("spoken", showStop);
window.addEventListener("status", ({ detail }) => {
  busy = detail === "busy";
  showStop();
});
window.addEventListener("example", async ({ detail }) => {
  if (detail.text) {
    write(detail.text);
    text.focus();
    return;
  }
  const response = await fetch(window.pageAddress(detail.path));
  const content = await response.blob();
  attach("audio", { path: detail.path, name: detail.name, url: URL.createObjectURL(content) });
});
watch("value", receive);
try {
  text.value = sessionStorage.getItem("draft") ?? "";
} catch {} // storage is blocked
requestAnimationFrame(grow);
window.addEventListener("resize", grow);
showRecording();
