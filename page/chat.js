// The conversation. The value is one JSON object: the name of the conversation, and those of its
// turns that have changed since; so what a turn costs doesn't depend on how many there were.
// Everything that a user or the model said becomes text, never HTML.
const language = window.pageLanguage;
const words = window.pageWords[language];
const rows = new Map(); // turn -> {user, bot, turn}
let conversation = null;
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
  audio.onerror = () => {
    button.disabled = true; // it was old, and has made room for others
    button.title = words.sound_gone;
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

function fillUser(row, { user, name }) {
  const bubble = make("div", "bubble");
  if (user.text) bubble.append(make("p", "text", user.text), ...gloss(user.gloss));
  if (user.image) bubble.append(seen("img", user.image));
  if (user.video) bubble.append(seen("video", user.video));
  if (user.sound) bubble.append(soundButton(user.sound, user.seconds));
  row.replaceChildren(bubble);
  if (user.badge) row.append(badge(user.badge));
}

function fillBot(row, turn) {
  const { reply } = turn;
  const bubble = make("div", "bubble");
  bubble.append(make("p", "text", reply.text || (reply.growing ? "…" : words.no_words)), ...gloss(reply.gloss));
  row.replaceChildren(bubble);
  const notes = make("div", "notes");
  if (reply.model) notes.append(make("span", "made-by", [reply.model, ...changes(turn)].join(" · ")));
  if (reply.badge) notes.append(badge(reply.badge));
  if (reply.heard) notes.append(heardLine(reply.heard));
  if (turn.again && !turn.beside) notes.append(make("span", "cut", words.another_reply));
  if (!reply.knows_before) notes.append(make("span", "cut", words.beside_alone));
  if (reply.stopped) notes.append(make("span", "cut", words.cut));
  if (notes.childNodes.length) row.append(notes);
  if (!reply.growing) row.append(actions(turn));
}

function show(turn) {
  if (!rows.has(turn.name)) {
    const pair = { user: turn.again ? null : make("div", "row user-row"), bot: make("div", "row bot-row") };
    rows.set(turn.name, pair);
    if (rows.has(turn.beside)) putBeside(rows.get(turn.beside).bot, pair.bot);
    else if (turn.again && rows.has(turn.again)) {
      const family = [...rows.values()].filter((other) => other.turn?.again === turn.again || other.turn?.name === turn.again);
      const last = family.at(-1).bot;
      (last.closest(".pair") ?? last).after(pair.bot);
    } else log.append(...(pair.user ? [pair.user] : []), pair.bot);
    if (!log.classList.contains("restoring")) clearFaults();
  }
  const row = rows.get(turn.name);
  const content = JSON.stringify(turn);
  if (row.content === content) return false;
  const before = row.turn;
  [row.content, row.turn] = [content, turn];
  if (row.user && JSON.stringify(before?.user) !== JSON.stringify(turn.user)) fillUser(row.user, turn);
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
  if (isNew) log.append(make("p", "break", words.new_conversation));
  conversation = value.conversation;
}

function receive() {
  if (!props.value) return;
  const numRows = rows.size;
  const value = JSON.parse(props.value);
  if (value.restored) {
    if (wasTalking()) log.append(make("p", "break", words.lost_conversation));
    remember(null);
    showEmpty();
    return;
  }
  if (value.conversation !== conversation || value.cleared) begin(value);
  remember(value.turns.length ? conversation : null);
  const changed = value.turns.map(show).some(Boolean);
  const isNew = rows.size > numRows && value.turns.at(-1)?.reply.growing;
  showEmpty();
  if (changed && (isAtEnd || isNew)) toEnd();
}

function showEmpty() {
  log.classList.toggle("empty", !log.querySelector(".row"));
}

log.classList.add("empty");
watch("value", receive);
window.addEventListener("silence", ({ detail }) => {
  if (detail !== playing) playing?.pause();
});
element.querySelectorAll("[data-example]").forEach((button) => {
  button.onclick = () => window.pageTell("example", JSON.parse(button.dataset.example));
});
receive();
