// What the user says: text, a recording or a file, or all at once. Hands-free talk: hands_free.js.
const words = window.pageWords[window.pageLanguage];
const ask = window.pageAsk;
const text = element.querySelector("textarea");
const sendButton = element.querySelector(".send");
const stopButton = element.querySelector(".stop");
const recordButton = element.querySelector(".record");
const file = element.querySelector("input[type=file]");
const attached = element.querySelector(".attached");
const MAX_SECONDS = props.max_seconds;
let sound = null; // {path, name, url, seconds}: what will be sent
let uploading = null;
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

function attach(what) {
  if (sound?.url && sound.url !== what?.url) URL.revokeObjectURL(sound.url);
  sound = what;
  attached.hidden = !what;
  attached.querySelector(".name").textContent = what?.name ?? "";
  const player = attached.querySelector("audio");
  player.pause();
  if (what) player.src = what.url;
  else player.removeAttribute("src");
  element.querySelector(".composer").classList.toggle("has-sound", Boolean(what));
}

function take(given, name) {
  const mine = (uploading = (async () => {
    window.pageStatus("busy", "uploading");
    try {
      const { path } = await upload(given);
      if (mine !== uploading) return;
      attach({ path, name, url: URL.createObjectURL(given) });
      window.pageStatus("");
      if (!text.value.trim()) ask.prepare({ audio: { path } });
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

async function send() {
  const asked = performance.now();
  const finished = recording && finishRecording(); // before `leave`, which forgets a recording
  tell("leave");
  await finished;
  await uploading;
  const said = text.value.trim();
  if (!said && !sound) {
    window.pageStatus("fault", "error_nothing_given");
    return;
  }
  tell("silence");
  window.pageAsked = asked;
  ask.answer({ text: said, audio: sound && { path: sound.path } });
}

function stop() {
  const heard = window.pagePlayer.heard();
  cancelRecording();
  tell("leave");
  tell("silence");
  ask.stop(heard ?? {});
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
  if (given.audio && sound?.path === given.audio) attach(null);
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
attached.querySelector(".remove").onclick = () => {
  attach(null);
  text.focus();
};
element.addEventListener("dragover", (event) => event.preventDefault());
element.addEventListener("drop", (event) => {
  event.preventDefault();
  const given = event.dataTransfer.files[0];
  if (given) take(given, given.name);
});
window.addEventListener("leave", cancelRecording);
window.addEventListener("example", async ({ detail }) => {
  if (detail.text) {
    write(detail.text);
    text.focus();
    return;
  }
  const response = await fetch(window.pageAddress(detail.path));
  const content = await response.blob();
  attach({ path: detail.path, name: detail.name, url: URL.createObjectURL(content) });
  if (!text.value.trim()) ask.prepare({ audio: { path: detail.path } });
});
watch("value", receive);
try {
  text.value = sessionStorage.getItem("draft") ?? "";
} catch {} // storage is blocked
requestAnimationFrame(grow);
showRecording();
