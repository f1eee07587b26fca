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
const attached = {}; // what will be sent, by kind: {path, name, url}; {given, name, url} of a recording not uploaded yet
const uploads = {}; // under way, by kind; each tells whether something is attached then
let isTold = false; // the status says that something is uploaded
let sending = null; // what waits for uploads to be sent
let asked = null; // what was sent, as JSON, until the server has taken or refused it
let busy = false; // a reply waits or is made
let local = ""; // the kind of the status, where the page itself has said it
let recording = null; // {pieces, rate}

const tell = window.pageTell;
window.pageLabel(element);

function grow() {
  if (!text.offsetParent) return; // another tab is shown
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
  const isAlone = Object.keys(attached).length === 1 && !text.value.trim();
  if (kind === "audio" && what?.path && isAlone && !sending) ask.prepare({ audio: { path: what.path } });
}

// What a file is, where pictures and videos are seen; sound where they aren't. That phones and
// browsers record sound in files that are called videos, the server finds out.
function kindOf(given) {
  const kind = given.type.split("/")[0];
  return slots[kind] ? kind : "audio";
}

// Uploads what is attached then. A recording stays if that fails, to be sent all the same. What is
// replaced meanwhile comes to what replaced it.
function take(given, name, isRecording = false) {
  const kind = kindOf(given);
  const mine = (uploads[kind] = (async () => {
    window.pageStatus("busy", "uploading");
    isTold = true;
    try {
      const { path } = await upload(given);
      if (mine !== uploads[kind]) return uploads[kind] ?? Boolean(attached[kind]);
      attach(kind, { path, name, url: URL.createObjectURL(given) });
      delete uploads[kind];
      if (isTold && !isUploading()) window.pageStatus("");
      return true;
    } catch (error) {
      if (mine !== uploads[kind]) return uploads[kind] ?? Boolean(attached[kind]);
      delete uploads[kind];
      if (isRecording) attach(kind, { given, name, url: URL.createObjectURL(given) });
      window.pageStatus("fault", "upload_failed", { reason: window.pageUploadFault(error, given) });
      return false;
    }
  })());
  return mine;
}

// Takes one of each kind: more have no place.
async function takeAll(files) {
  const kinds = new Map([...files].map((given) => [kindOf(given), given]));
  const came = await Promise.all([...kinds.values()].map((given) => take(given, given.name)));
  if (kinds.size < files.length && came.every(Boolean)) window.pageStatus("fault", "error_one_of_a_kind");
}

function isUploading() {
  return Object.keys(uploads).length > 0;
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
  if (done.pieces.length) return take(window.pageMicrophone.wav(done.pieces, done.rate), words.recording_name, true);
  window.pageStatus("fault", "error_nothing_heard");
  return false;
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
  const since = performance.now();
  const finished = recording && finishRecording(); // before `leave`, which forgets a recording
  const before = asked;
  tell("leave"); // which forgets that, too
  const mine = (sending = {});
  const { given: kept, name } = attached.audio ?? {};
  if (kept && !uploads.audio) take(kept, name, true);
  const isWhole = (await Promise.all([finished ?? true, ...Object.values(uploads)])).every(Boolean);
  if (mine !== sending) return; // stopped, or pressed again
  sending = null;
  if (!isWhole) return;
  const said = text.value.trim();
  const given = { ...shown(), ...(attached.audio && { audio: { path: attached.audio.path } }) };
  if (!said && !Object.keys(given).length) {
    if (!busy) window.pageStatus("fault", "error_nothing_given");
    return;
  }
  const what = JSON.stringify([said, given]);
  asked = what;
  if (asked === before) return; // pressed twice
  tell("silence");
  window.pageAsked = since;
  ask.answer({ text: said, ...given });
  busy = true;
  showStop();
}

function stop() {
  const heard = window.pagePlayer.heard();
  const ends = isStoppable() || isUploading() || Boolean(recording || sending);
  if (document.activeElement === stopButton) document.querySelector("#chat .log").focus({ preventScroll: true });
  for (const kind of Object.keys(uploads)) delete uploads[kind];
  cancelRecording();
  tell("leave");
  tell("silence");
  ask.stop({ ...heard, ends });
}

// There is what Stop would end: a reply that is made or heard, an upload, hands-free talk.
function isStoppable() {
  const { state } = element.querySelector(".round").dataset;
  const isTalking = state !== "idle" && state !== "error";
  return busy || local === "busy" || isTalking || window.pagePlayer?.isSpeaking() === true;
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
  asked = null;
  if (given.text && text.value.trim().startsWith(given.text)) write(text.value.trimStart().slice(given.text.length).trimStart());
  const taken = [given.audio, given.image, given.video];
  for (const [kind, { path }] of Object.entries(attached)) if (taken.includes(path)) attach(kind, null);
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
  sending = asked = null;
  if (local && local !== "fault" && !isUploading()) window.pageStatus(""); // what it told of has ended
});
window.addEventListener("refused", ({ detail }) => {
  if (detail !== "answer") return;
  asked = null;
  busy = false;
  showStop();
});
window.addEventListener("spoken", showStop);
window.addEventListener("status", ({ detail: { kind, isServers } }) => {
  isTold = false;
  local = isServers ? "" : kind;
  if (isServers) busy = kind === "busy";
  if (!busy) asked = null;
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
new ResizeObserver(() => requestAnimationFrame(grow)).observe(element);
showRecording();
