// The conversation. The value is one JSON object: the name of the conversation, and those of its
// turns that have changed since; so what a turn costs doesn't depend on how many there were.
// Everything that a user or the model said becomes text, never HTML.
const log = element.querySelector(".log");
const language = window.pageLanguage;
const words = window.pageWords[language];
const rows = new Map(); // turn -> {user, bot, turn}
const ICONS = {
  compare: "M4 4h7v16H4zM6 6v12h3V6zM13 4h7v16h-7zM15 6v12h3V6z",
  again: "M12 5a7 7 0 1 0 7 7h-2a5 5 0 1 1-5-5v3l5-4-5-4z",
  copy: "M8 3h11v14h-2V5H8zM5 7h10v14H5z",
  download: "M11 3h2v9l3-3 1.4 1.4L12 16l-5.4-5.6L8 9l3 3zM4 18h16v2H4z",
  good: "M2 10h4v11H2zM8 21V10l5-8 2 1-1 6h7l-2 12z",
  bad: "M22 14h-4V3h4zM16 3v11l-5 8-2-1 1-6H3L5 3z",
};
let conversation = null;
let playing = null;
let following = false;

function make(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text) made.textContent = text;
  return made;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
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

// A button with an icon, and with a word where the icon alone says too little.
function action(name, about, onclick, word) {
  const button = make("button", `action ${name}`);
  button.type = "button";
  button.title = about;
  button.append(icon(name));
  if (word) button.append(make("span", "", word));
  else button.ariaLabel = about;
  button.onclick = onclick;
  return button;
}

function firstSound(name) {
  try {
    return JSON.parse(sessionStorage.getItem("first-sounds") ?? "{}")[name];
  } catch {
    return undefined;
  }
}

window.addEventListener("first-sound", ({ detail: { turn, at } }) => {
  if (window.pageAsked === null) return;
  const seconds = (at - window.pageAsked) / 1000;
  window.pageAsked = null;
  try {
    const kept = JSON.parse(sessionStorage.getItem("first-sounds") ?? "{}");
    const entries = Object.entries({ ...kept, [turn]: seconds }).slice(-200);
    sessionStorage.setItem("first-sounds", JSON.stringify(Object.fromEntries(entries)));
  } catch {} // storage is blocked: it isn't shown
});

function copy(button, text) {
  const done = () => {
    button.classList.add("done");
    window.pageStatus("note", "copied");
    setTimeout(() => button.classList.remove("done"), 1500);
  };
  navigator.clipboard?.writeText(text).then(done, () => window.pageStatus("fault", "not_copied"));
  if (!navigator.clipboard) window.pageStatus("fault", "not_copied");
}

function actions(turn) {
  const { reply, name } = turn;
  const bar = make("div", "actions");
  if (reply.sound) bar.append(soundButton(reply.sound, reply.seconds));
  if (reply.can_repeat) {
    bar.append(action("again", words.again, () => {
      window.pageTell("leave");
      window.pageTell("silence");
      window.pageAsked = performance.now();
      window.pageAsk.again({ turn: name });
    }, words.again_word), action("compare", words.beside, () => openPanel(turn), words.beside_word));
  }
  if (reply.text) bar.append(action("copy", words.copy, (event) => copy(event.currentTarget, reply.text)));
  if (reply.sound) {
    const link = make("a", "action download");
    link.href = window.pageAddress(reply.sound);
    link.download = reply.sound.split("/").pop();
    link.title = link.ariaLabel = words.download;
    link.append(icon("download"));
    bar.append(link);
  }
  for (const [kind, value] of [["good", 1], ["bad", -1]]) {
    const isSet = reply.rating === value;
    const button = action(kind, words[`rate_${kind}`], () => window.pageAsk.rate({ turn: name, rating: isSet ? 0 : value }));
    button.ariaPressed = String(isSet);
    bar.append(button);
  }
  const facts = make("span", "facts");
  if (reply.seed !== null) {
    const seed = make("button", "seed", `${words.seed} ${reply.seed}`);
    seed.type = "button";
    seed.title = words.seed_keep;
    seed.onclick = () => {
      window.pageAsk.seed({ seed: reply.seed });
      window.pageStatus("note", "seed_kept");
    };
    facts.append(seed);
  }
  const first = firstSound(name);
  if (first) facts.append(make("span", "first", words.first_sound.replace("{seconds}", first.toFixed(2))));
  if (facts.childNodes.length) bar.append(facts);
  return bar;
}

// How much of a reply's text is said at a time of its speech.
function saidUntil(reply, seconds) {
  let [characters, since] = [0, 0];
  for (const [end, until] of reply.marks) {
    if (until >= seconds) {
      const share = Math.max(0, seconds - since) / Math.max(until - since, 1e-6);
      return reply.text.slice(0, Math.ceil(characters + share * (end - characters)));
    }
    [characters, since] = [end, until];
  }
  return reply.text;
}

// What it means in English, where that is known.
function gloss(known) {
  return language === "en" && known ? [make("p", "gloss", known)] : [];
}

// What the user shows. A browser plays fewer kinds of video than the model sees.
function seen(tag, path) {
  const made = document.createElement(tag);
  const what = tag === "img" ? words.picture_shown : words.video_shown;
  const wasAtEnd = isAtEnd();
  made.onerror = () => made.replaceWith(make("p", "gone", words.not_shown.replace("{what}", what)));
  made.onload = made.onloadedmetadata = () => {
    if (made.videoWidth === 0) made.onerror(); // its sound alone is understood
    if (wasAtEnd) toEnd();
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

// While a reply sounds, its text grows with it.
function follow() {
  let sounds = false;
  for (const { bot, turn } of rows.values()) {
    const position = window.pagePlayer?.position(turn.name) ?? Infinity;
    const text = bot.querySelector(".text");
    const isHeard = position !== Infinity && !turn.reply.stopped;
    const shown = isHeard ? saidUntil(turn.reply, position) : turn.reply.text;
    const said = shown || (turn.reply.growing || isHeard ? "…" : words.no_words);
    if (text && text.textContent !== said) {
      const atEnd = isAtEnd();
      text.textContent = said;
      if (atEnd) toEnd();
    }
    bot.classList.toggle("sounding", isHeard);
    sounds ||= isHeard;
  }
  if (sounds && !following) {
    following = true;
    setTimeout(() => {
      following = false;
      follow();
    }, 60);
  }
}

function clearFaults() {
  window.pageTell("turn");
  document.querySelectorAll(".toast-close").forEach((button) => button.click());
}

function isAtEnd() {
  return log.scrollHeight - log.scrollTop - log.clientHeight < 140;
}

function toEnd() {
  log.scrollTop = log.scrollHeight;
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
  const value = JSON.parse(props.value);
  if (value.restored) {
    if (wasTalking()) log.append(make("p", "break", words.lost_conversation));
    remember(null);
    showEmpty();
    return;
  }
  const atEnd = isAtEnd();
  if (value.conversation !== conversation || value.cleared) begin(value);
  remember(value.turns.length ? conversation : null);
  const changed = value.turns.map(show).some(Boolean);
  showEmpty();
  if (changed && (atEnd || value.turns.at(-1).reply.growing)) toEnd();
}

function showEmpty() {
  log.classList.toggle("empty", !log.querySelector(".row"));
}

log.classList.add("empty");
watch("value", receive);
window.addEventListener("spoken", follow);
window.addEventListener("silence", ({ detail }) => {
  if (detail !== playing) playing?.pause();
});
element.querySelectorAll("[data-example]").forEach((button) => {
  button.onclick = () => window.pageTell("example", JSON.parse(button.dataset.example));
});
receive();
