// The conversation. The value is one JSON object: its number, the name of the conversation, and those
// of its turns that have changed since; so what a turn costs doesn't depend on how many there were.
// What is older than what is shown, by number, is not: a call's values may come after a later call's.
// Everything that a user or the model said becomes text, never HTML.
const language = window.pageLanguage;
const words = window.pageWords[language];
const rows = new Map(); // turn -> {user, bot, turn, number}
const sounds = new Map(); // replies' sounds -> their buttons, which play on while their rows change
let conversation = null;
let begun = 0; // the number of the value that it began with
let playing = null;

function make(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text) made.textContent = text;
  return made;
}

function clock(seconds) {
  const rest = Math.max(1, Math.round(seconds));
  return `${Math.floor(rest / 60)}:${String(rest % 60).padStart(2, "0")}`;
}

function replySound({ name, reply: { sound, seconds } }) {
  const key = `${name} ${sound} ${seconds}`;
  if (!sounds.has(key)) sounds.set(key, soundButton(sound, seconds));
  return sounds.get(key);
}

function soundButton(path, seconds) {
  const button = make("button", "sound");
  const time = seconds ? clock(seconds) : "";
  button.type = "button";
  button.append(make("i", "icon"), make("span", "time", time));
  const audio = new Audio();
  audio.preload = "none";
  const show = () => {
    button.classList.toggle("playing", !audio.paused);
    button.ariaLabel = `${audio.paused ? words.play : words.pause} ${time}`;
  };
  audio.onplay = audio.onpause = audio.onended = show;
  audio.onerror = async () => {
    const path = audio.src;
    audio.pause();
    audio.removeAttribute("src"); // the next press asks for it again
    const isGone = await isMissing(path); // it was old, and has made room for others
    window.pageStatus("fault", isGone ? "sound_gone" : "sound_failed");
    if (!isGone) return;
    button.title = words.sound_gone;
    window.pagePassFocus(button, log);
    button.disabled = true;
  };
  button.onclick = () => {
    if (!audio.paused) return audio.pause();
    window.pageTell("silence");
    audio.src ||= window.pageAddress(path);
    playing = audio;
    audio.play().catch(() => {});
  };
  show();
  return button;
}

// Whether the server has a file no more; not that it can't be reached, or has no time.
async function isMissing(path) {
  const response = await fetch(path).catch(() => null);
  response?.body?.cancel();
  return response?.status === 403 || response?.status === 404;
}

function badge({ kind, word }) {
  const made = make("span", `badge ${kind}`);
  made.append(make("span", "what", words[kind]), make("span", "word", word[language]));
  return made;
}

// What the model wrote down of the user's speech, so that one sees what was misheard.
function heardLine(syllables) {
  const line = make("span", "heard", words.heard.replace("{syllables}", () => syllables));
  line.title = line.textContent; // which may be cut
  return line;
}

// What it means in English, where that is known.
function gloss(known) {
  return language === "en" && known ? [make("p", "gloss", known)] : [];
}

// What the user shows. A browser plays fewer kinds of video than the model sees.
function seen(tag, path) {
  const made = document.createElement(tag);
  const what = tag === "img" ? words.picture_shown : words.video_shown;
  made.onerror = () => made.replaceWith(make("p", "gone", words.not_shown.replace("{what}", what)));
  made.onload = made.onloadedmetadata = () => {
    if (made.videoWidth === 0) made.onerror(); // its sound alone is understood
    if (isAtEnd) toEnd();
  };
  if (tag === "img") made.alt = what;
  else [made.controls, made.preload, made.ariaLabel] = [true, "metadata", what];
  made.src = window.pageAddress(path);
  return made;
}

// What was said stays as it is, and may play on, while more is told of it.
function fillUser(pair, { user: { badge: perceived, ...said } }) {
  const content = JSON.stringify(said);
  if (pair.said !== content) pair.user.replaceChildren(userBubble(said));
  pair.said = content;
  pair.user.querySelector(".badge")?.remove();
  if (perceived) pair.user.append(badge(perceived));
}

function userBubble(said) {
  const bubble = make("div", "bubble");
  if (said.text) bubble.append(make("p", "text", said.text), ...gloss(said.gloss));
  if (said.image) bubble.append(seen("img", said.image));
  if (said.video) bubble.append(seen("video", said.video));
  if (said.sound) bubble.append(soundButton(said.sound, said.seconds));
  return bubble;
}

// All but the reply's text, which follow.js writes.
function fillBot(row, turn) {
  const { reply } = turn;
  const bubble = row.firstChild ?? row.appendChild(make("div", "bubble"));
  if (!bubble.firstChild) bubble.append(make("p", "text", "…"));
  bubble.querySelector(".gloss")?.remove();
  bubble.append(...gloss(reply.gloss));
  const notes = make("div", "notes");
  if (reply.model) notes.append(make("span", "made-by", [reply.model, ...changes(turn)].join(" · ")));
  if (reply.badge) notes.append(badge(reply.badge));
  if (reply.heard) notes.append(heardLine(reply.heard));
  if (turn.again && !turn.beside) notes.append(make("span", "cut", words.another_reply));
  if (!reply.knows_before) notes.append(make("span", "cut", words.beside_alone));
  if (reply.stopped) notes.append(make("span", "cut", words.cut));
  refill(row, [...(notes.childNodes.length ? [notes] : []), ...(reply.growing ? [] : [actions(turn)])]);
}

// What follows the bubble. What held the focus holds it again, or what is there in its place.
function refill(row, parts) {
  const held = row.contains(document.activeElement) ? document.activeElement : null;
  while (row.childNodes.length > 1) row.lastChild.remove();
  row.append(...parts);
  if (!held) return;
  const alike = [...held.classList].slice(0, 2).map((name) => `.${name}`).join("");
  (row.contains(held) ? held : row.querySelector(alike) ?? log).focus({ preventScroll: true });
}

function show(turn, number) {
  if (!rows.has(turn.name)) {
    const pair = { user: turn.again ? null : make("div", "row user-row"), bot: make("div", "row bot-row") };
    rows.set(turn.name, pair);
    if (rows.has(turn.beside)) {
      putBeside(rows.get(turn.beside).bot, pair.bot);
      if (compared && panel.dataset.turn === turn.beside) closePanel();
    }
    else if (turn.again && rows.has(turn.again)) {
      const family = [...rows.values()].filter((other) => other.turn?.again === turn.again || other.turn?.name === turn.again);
      const last = family.at(-1).bot;
      (last.closest(".pair") ?? last).after(pair.bot);
    } else log.append(...(pair.user ? [pair.user] : []), pair.bot);
    if (!log.classList.contains("restoring")) clearFaults();
  }
  const row = rows.get(turn.name);
  if (number < row.number) return false;
  row.number = number;
  const content = JSON.stringify(turn);
  if (row.content === content) return false;
  const before = row.turn;
  [row.content, row.turn] = [content, turn];
  if (row.user && JSON.stringify(before?.user) !== JSON.stringify(turn.user)) fillUser(row, turn);
  fillBot(row.bot, turn);
  follow();
  return true;
}

function clearFaults() {
  window.pageTell("turn");
  document.querySelectorAll(".toast-close").forEach((button) => button.click());
}

let remembered;

function remember(name) {
  if (name === remembered) return;
  remembered = name;
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
  if (value.cleared) log.querySelectorAll(".row, .break, .pair, .panel").forEach((row) => row.remove());
  rows.clear();
  sounds.clear();
  if (isNew) log.append(make("p", "break", words.new_conversation));
  [conversation, begun] = [value.conversation, value.number];
}

function receive() {
  if (!props.value) return;
  const numRows = rows.size;
  const value = JSON.parse(props.value);
  if (value.number < begun) return;
  if (value.restored) {
    if (wasTalking()) log.append(make("p", "break", words.lost_conversation));
    remember(null);
    showEmpty();
    return;
  }
  if (value.conversation !== conversation || value.cleared) begin(value);
  remember(value.turns.length ? conversation : null);
  const changed = value.turns.map((turn) => show(turn, value.number)).some(Boolean);
  const isNew = rows.size > numRows && value.turns.at(-1)?.reply.growing;
  showEmpty();
  if (changed && (isAtEnd || isNew)) toEnd();
}

function showEmpty() {
  log.classList.toggle("empty", !log.querySelector(".row"));
}

log.classList.add("empty");
log.ariaLabel = words.chat;
watch("value", receive);
window.addEventListener("silence", ({ detail }) => {
  if (detail !== playing) playing?.pause();
});
element.querySelectorAll("[data-example]").forEach((button) => {
  button.onclick = () => window.pageTell("example", JSON.parse(button.dataset.example));
});
receive();
