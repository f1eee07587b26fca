// What can be done with a reply, beneath it, and how it was made. Precedes chat.js, in whose scope
// it runs.
const ICONS = {
  compare: "M4 4h7v16H4zM6 6v12h3V6zM13 4h7v16h-7zM15 6v12h3V6z",
  again: "M12 5a7 7 0 1 0 7 7h-2a5 5 0 1 1-5-5v3l5-4-5-4z",
  copy: "M8 3h11v14h-2V5H8zM5 7h10v14H5z",
  download: "M11 3h2v9l3-3 1.4 1.4L12 16l-5.4-5.6L8 9l3 3zM4 18h16v2H4z",
  good: "M2 10h4v11H2zM8 21V10l5-8 2 1-1 6h7l-2 12z",
  bad: "M22 14h-4V3h4zM16 3v11l-5 8-2-1 1-6H3L5 3z",
};

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
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
  if (reply.sound) bar.append(replySound(turn));
  if (reply.can_repeat) {
    bar.append(action("again", words.again, () => {
      window.pageTell("leave");
      window.pageTell("silence");
      window.pageAsked = performance.now();
      window.pageAsk.again({ turn: name });
      window.pageStatus("busy", "sending");
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
