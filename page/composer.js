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
const attached = {}; // what will be sent, by kind: {path, name, content, url, look}, the number of the call that looks at it; a recording not uploaded yet has no path
const uploads = {}; // what is on its way to be attached, by kind: {told}, the key of what is said of it
let isTold = false; // the status says that something is on its way
let sending = null; // what waits for uploads to be sent: {since}
let sent = []; // what the server has not taken yet: {number, text, files, isBack}, the last one last
let lastSent = 0; // the number of the last call for an answer that was not refused
let lastTold = 0; // of the last call of which the server has told what goes on
let busy = false; // a reply waits or is made, as it was told then
let local = ""; // the kind of the status, where the page itself has said it
let recording = null; // {pieces, rate}

const tell = window.pageTell;
window.pageLabel(element);

function grow() {
  if (!text.offsetParent) return; // another tab is shown
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight, 132)}px`;
}

// What was sent and not taken precedes what was written since.
function draft() {
  const left = sent.filter(({ isBack }) => !isBack).map((one) => one.text);
  try {
    sessionStorage.setItem("draft", [...left, text.value].filter(Boolean).join("\n"));
  } catch {} // storage is blocked: a reload loses it
}

function write(words) {
  text.value = words;
  grow();
  draft();
}

function attach(kind, what) {
  if (attached[kind]) URL.revokeObjectURL(attached[kind].url);
  if (what) attached[kind] = { ...what, url: URL.createObjectURL(what.content) };
  else delete attached[kind];
  slots[kind].hidden = !what;
  slots[kind].querySelector(".name").textContent = what?.name ?? "";
  const shown = slots[kind].querySelector("audio, img, video");
  shown.pause?.();
  shown.hidden = false;
  if (what) shown.src = attached[kind].url;
  else shown.removeAttribute("src");
  if (kind === "image") shown.alt = what?.name ?? "";
}

// What can't be answered of a recording is told before it is sent; one that will be sent alone is
// read by then.
function prepare() {
  const { audio, ...others } = attached;
  const alone = !Object.keys(others).length && !text.value.trim();
  if (!audio.path || sending) return;
  ask.prepare({ audio: { path: audio.path }, alone });
  audio.look = window.pageCalls;
}

// What is said of a recording that was removed, replaced or sent meanwhile comes too late.
window.pageUnusable = (told) => {
  if (attached.audio?.look === told.asked) window.pageNotice(told);
};

// What a file is, where pictures and videos are seen; sound where they aren't. That phones and
// browsers record sound in files that are called videos, the server finds out.
function kindOf(given) {
  const kind = given.type.split("/")[0];
  return slots[kind] ? kind : "audio";
}

function isUploading() {
  return Object.keys(uploads).length > 0;
}

// Says what is on its way, or nothing; a fault stays beside what goes on.
function tellUnderWay(goesOn = false) {
  const key = Object.values(uploads).at(-1)?.told ?? (isSent() ? "sending" : "");
  if (key) window.pageStatus("busy", key, {}, goesOn);
  else window.pageNotice({ kind: "", goes_on: goesOn }); // a reply that is under way is told again
  isTold = Boolean(key);
}

// Nothing of this kind is on its way any more. What waited for that alone is sent.
function settle(kind) {
  delete uploads[kind];
  if (isTold) tellUnderWay(true);
  if (sending && !isUploading()) deliver();
  showStop();
}

// Attaches what comes, unless it was replaced, removed or stopped meanwhile; tells whether it did.
// Nothing is sent of which a part did not come.
async function bring(kind, told, coming, fail) {
  const mine = (uploads[kind] = { told });
  tellUnderWay();
  const { what, error } = await coming.then((came) => ({ what: came }), (fault) => ({ error: fault }));
  if (mine !== uploads[kind]) return false;
  if (what) attach(kind, what);
  else sending = null;
  if (what && kind === "audio") prepare();
  settle(kind);
  if (!what) fail(error);
  return Boolean(what);
}

// Uploads what is attached then. A recording stays if that fails, to be sent all the same.
function take(content, name, isRecording = false) {
  const kind = kindOf(content);
  const coming = upload(content).then(({ path }) => ({ path, name, content }));
  return bring(kind, "uploading", coming, (error) => {
    if (isRecording) attach(kind, { name, content });
    const reason = window.pageUploadFault(error, content, isRecording ? words.send : null);
    window.pageStatus("fault", "upload_failed", { reason });
  });
}

// Takes one of each kind: more have no place.
async function takeAll(files) {
  const kinds = new Map([...files].map((given) => [kindOf(given), given]));
  const came = await Promise.all([...kinds.values()].map((given) => take(given, given.name)));
  if (kinds.size < files.length && came.every(Boolean)) window.pageStatus("fault", "error_one_of_a_kind");
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

// Tells whether there is one.
function finishRecording() {
  const done = recording;
  recording = null;
  window.pageMicrophone.close();
  showRecording();
  window.pageStatus("");
  if (done.pieces.length) take(window.pageMicrophone.wav(done.pieces, done.rate), words.recording_name, true);
  else window.pageStatus("fault", "error_nothing_heard");
  return done.pieces.length > 0;
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

function send() {
  const since = performance.now();
  const isHeard = !recording || finishRecording(); // before `leave`, which forgets a recording
  tell("leave", "reply"); // which forgets that, too; what is spoken is heard until this is sent
  if (!isHeard) return;
  sending = { since };
  const { audio } = attached;
  if (audio && !audio.path && !uploads.audio) take(audio.content, audio.name, true);
  if (isUploading()) tellUnderWay();
  else deliver();
}

function deliver() {
  const { since } = sending;
  sending = null;
  const said = text.value.trim();
  const files = { ...attached };
  if (!said && !Object.keys(files).length) {
    if (!busy && !isSent()) window.pageStatus("fault", "error_nothing_given");
    return;
  }
  tell("silence");
  window.pageAsked = since;
  ask.answer({ text: said, ...shown(), ...(files.audio && { audio: { path: files.audio.path } }) });
  lastSent = window.pageCalls;
  sent = [...sent.filter(({ isBack }) => !isBack), { number: lastSent, text: said, files }];
  for (const kind of Object.keys(files)) attach(kind, null);
  write("");
  tellUnderWay();
  showStop();
}

// What is sent and was not taken returns to the composer, before what was written there since.
function giveBack(which) {
  const lost = sent.filter((one) => !one.isBack && which(one));
  if (!lost.length) return;
  for (const one of lost) one.isBack = true;
  const words = lost.map((one) => one.text).filter(Boolean).join("\n");
  const [typed, from, to] = [text.value, text.selectionStart, text.selectionEnd];
  write([words, typed].filter(Boolean).join("\n"));
  const added = text.value.length - typed.length;
  text.setSelectionRange(from + added, to + added);
  for (const [kind, what] of lost.flatMap(({ files }) => Object.entries(files))) {
    if (!attached[kind] && !uploads[kind]) attach(kind, what);
  }
}

function stop() {
  const heard = window.pagePlayer.heard();
  const ends = isStoppable() || Boolean(recording);
  if (document.activeElement === stopButton) document.querySelector("#chat .log").focus({ preventScroll: true });
  sending = null;
  for (const kind of Object.keys(uploads)) settle(kind);
  cancelRecording();
  tell("leave");
  tell("silence");
  ask.stop({ ...heard, ends });
}

// The server has told nothing yet of what was sent.
function isSent() {
  return lastTold < lastSent;
}

// There is what Stop would end: a reply that is made or heard, an upload, hands-free talk.
function isStoppable() {
  const { state } = element.querySelector(".round").dataset;
  const isTalking = state !== "idle" && state !== "error";
  return busy || isSent() || local === "busy" || isUploading() || isTalking || window.pagePlayer?.isSpeaking() === true;
}

function showStop() {
  element.querySelector(".composer").classList.toggle("stoppable", isStoppable());
}

// What was taken has left the composer, or leaves it now; what was sent before it and is not taken
// was replaced by it.
function receive() {
  const given = JSON.parse(props.value || "{}");
  if (given.saved) {
    const link = document.createElement("a");
    link.href = window.pageAddress(given.saved);
    link.download = "conversation.zip";
    link.click();
    return;
  }
  const taken = sent.filter(({ number }) => given.taken?.includes(number));
  sent = sent.filter((one) => !taken.includes(one));
  for (const one of taken) {
    if (one.isBack && text.value.startsWith(one.text)) write(text.value.slice(one.text.length).trimStart());
  }
  const paths = [given.audio, given.image, given.video];
  for (const [kind, { path }] of Object.entries(attached)) if (paths.includes(path)) attach(kind, null);
  giveBack(({ number }) => number < given.asked);
  draft();
}

// The key is for what writes Chinese, not for the page.
function isComposing(event) {
  return event.isComposing || event.keyCode === 229;
}

text.addEventListener("input", () => {
  grow();
  draft();
});
text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || isComposing(event)) return;
  event.preventDefault();
  if (!event.repeat) send();
});
window.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.defaultPrevented && !isComposing(event)) stop();
});
sendButton.onclick = ({ detail }) => detail > 1 || send(); // not the rest of a double click
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
    settle(kind); // the same recording may be on its way once more
    text.focus();
  };
}
text.addEventListener("paste", (event) => {
  const { files } = event.clipboardData;
  if (!files.length || !slots.image) return;
  event.preventDefault();
  takeAll(files);
});
element.addEventListener("dragover", (event) => event.preventDefault());
element.addEventListener("drop", (event) => {
  event.preventDefault();
  takeAll(event.dataTransfer.files);
});
window.addEventListener("leave", () => {
  cancelRecording();
  sending = null;
  if (local && local !== "fault") tellUnderWay(); // what else it told of has ended
});
window.addEventListener("refused", ({ detail }) => {
  if (!["answer", "again", "compare"].includes(detail.name)) return;
  giveBack(({ number }) => number === detail.asked);
  if (detail.asked === lastSent) lastSent = 0;
  tellUnderWay(true);
  showStop();
});
window.addEventListener("spoken", showStop);
window.addEventListener("status", ({ detail: { kind, by, asked: number } }) => {
  isTold = false;
  local = by === "page" ? kind : "";
  if (by === "reply") [busy, lastTold] = [kind === "busy", number];
  if (by === "reply" && !busy) giveBack((one) => one.number <= number);
  const isOver = !kind || kind === "fault"; // and nothing would be said of what is on its way
  if ((isUploading() && isOver) || (isSent() && (isOver || by === "reply"))) tellUnderWay(true);
  showStop();
});

// An example's recording, to be attached by what is said in it.
async function example({ path, name: { [window.pageLanguage]: name } }) {
  const response = await fetch(window.pageAddress(path));
  if (!response.ok) throw new Error(response.statusText);
  return { path, name, content: await response.blob() };
}

window.addEventListener("example", ({ detail }) => {
  if (detail.text) {
    write(detail.text);
    text.focus();
    return;
  }
  const fail = () => window.pageStatus("fault", "example_failed");
  bring("audio", "fetching_example", example(detail), fail).then((came) => came && sendButton.focus());
});
watch("value", receive);
try {
  text.value = sessionStorage.getItem("draft") ?? "";
} catch {} // storage is blocked
new ResizeObserver(() => requestAnimationFrame(grow)).observe(element);
showRecording();
