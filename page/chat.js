// The conversation. The value is one JSON object: the name of the conversation, and those of its
// turns that have changed since; so what a turn costs doesn't depend on how many there were.
// Everything that a user or the model said becomes text, never HTML.
const log = element.querySelector(".log");
const words = window.pageWords[window.pageLanguage];
const rows = new Map(); // turn -> its two rows
let conversation = null;
let playing = null;

function make(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text) made.textContent = text;
  return made;
}

function address(path) {
  const root = location.pathname.replace(/\/?$/, "/");
  return `${root}gradio_api/file=${path.split("/").map(encodeURIComponent).join("/")}`;
}

function hush() {
  playing?.pause();
}

function soundButton(path, seconds) {
  const button = make("button", "sound");
  const rest = Math.max(1, Math.round(seconds));
  const time = `${Math.floor(rest / 60)}:${String(rest % 60).padStart(2, "0")}`;
  button.type = "button";
  button.append(make("i", "icon"), make("span", "time", seconds ? time : ""));
  const audio = new Audio();
  audio.preload = "none";
  const show = () => {
    button.classList.toggle("playing", !audio.paused);
    button.ariaLabel = `${audio.paused ? words.play : words.pause} ${seconds ? time : ""}`;
  };
  audio.onplay = audio.onpause = audio.onended = show;
  audio.onerror = () => {
    button.disabled = true; // it was old, and has made room for others
    button.title = words.sound_gone;
  };
  button.onclick = () => {
    if (!audio.paused) return audio.pause();
    window.dispatchEvent(new Event("silence"));
    audio.src ||= address(path);
    playing = audio;
    audio.play().catch(() => {});
  };
  show();
  return button;
}

function badge({ kind, word }) {
  const made = make("span", `badge ${kind}`);
  made.append(make("span", "what", words[kind]), make("span", "word", word[window.pageLanguage]));
  return made;
}

function fill(row, said) {
  const content = JSON.stringify(said);
  if (row.dataset.content === content) return;
  row.dataset.content = content;
  const bubble = make("div", "bubble");
  if (said.text) bubble.append(make("p", "text", said.text));
  if (said.growing && !said.text) bubble.append(make("p", "text", "…"));
  if (said.sound) bubble.append(soundButton(said.sound, said.seconds));
  row.replaceChildren(bubble);
  if (said.badge) row.append(badge(said.badge));
  if (said.stopped) row.append(make("span", "cut", words.cut));
}

function show(turn) {
  if (!rows.has(turn.name)) {
    const pair = [make("div", "row user-row"), make("div", "row bot-row")];
    rows.set(turn.name, pair);
    log.append(...pair);
  }
  const [user, bot] = rows.get(turn.name);
  fill(user, turn.user);
  fill(bot, turn.reply);
}

function showDownload(sound) {
  const link = document.querySelector("#download a");
  if (!link) return;
  link.ariaDisabled = String(!sound);
  if (sound) link.href = address(sound);
  else link.removeAttribute("href");
  link.download = sound?.split("/").pop() ?? "";
}

function remember(name) {
  try {
    if (name) sessionStorage.setItem("conversation", name);
    else sessionStorage.removeItem("conversation");
  } catch {} // storage is blocked: nothing is known after a reload
}

function wasTalking() {
  try {
    return sessionStorage.getItem("conversation") !== null;
  } catch {
    return false;
  }
}

function begin(value) {
  const isNew = conversation !== null && rows.size > 0 && !value.cleared;
  if (value.cleared) log.querySelectorAll(".row, .break").forEach((row) => row.remove());
  rows.clear();
  if (isNew) log.append(make("p", "break", words.new_conversation));
  showDownload(null);
  conversation = value.conversation;
}

function receive() {
  if (!props.value) return;
  const value = JSON.parse(props.value);
  if (value.restored) {
    if (wasTalking()) log.append(make("p", "break", words.lost_conversation));
    remember(null);
    log.classList.toggle("empty", !log.querySelector(".break"));
    return;
  }
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 120;
  if (value.conversation !== conversation || value.cleared) begin(value);
  remember(value.turns.length ? conversation : null);
  value.turns.forEach(show);
  const last = value.turns.at(-1);
  if (last?.reply.sound) showDownload(last.reply.sound);
  log.classList.toggle("empty", !log.querySelector(".row"));
  if (atEnd || last?.reply.growing) log.scrollTop = log.scrollHeight;
}

log.classList.add("empty");
watch("value", receive);
window.addEventListener("silence", hush);
receive();
