// Listening tests: who builds one, who rates, and what was found. The three parts are in build.js,
// rate.js and results.js, which follow in the same scope.
const ask = (name, value = {}) => window.testsAsk[name](value);
const offer = props.offer;
const heard = {}; // what to do with the server's answers, by what was asked

// The keys that this browser was given; a blocked storage forgets them with the page.
const kept = (() => {
  let value = { owned: {}, raters: {} };
  try {
    value = { ...value, ...JSON.parse(localStorage.getItem("listening") ?? "{}") };
  } catch {}
  return {
    value,
    save() {
      try {
        localStorage.setItem("listening", JSON.stringify(value));
      } catch {}
    },
  };
})();

// A line that says what goes on, or what was wrong.
function newStatus() {
  const line = make("p", { className: "line", role: "status" });
  return {
    line,
    say(text, isFault = false) {
      line.textContent = text ?? "";
      line.classList.toggle("fault", isFault);
    },
  };
}

// One sound at a time; the button plays it and stops it.
const player = { sound: null, stop: () => {} };
function playButton(name, sound, onplay = () => {}) {
  const icon = make("i", { className: "icon", "aria-hidden": "true" });
  const made = make("button", { type: "button", className: "play" }, icon, make("span", {}, name));
  const show = () => {
    made.classList.toggle("playing", !sound.paused);
    made.setAttribute("aria-pressed", String(!sound.paused));
  };
  sound.addEventListener("play", show);
  sound.addEventListener("pause", show);
  sound.addEventListener("ended", show);
  made.onclick = () => {
    if (!sound.paused) return sound.pause();
    window.pageTell("silence");
    onplay(player.sound);
    player.sound = sound;
    sound.play().catch(() => {});
  };
  show();
  return made;
}
window.addEventListener("silence", () => player.sound?.pause());

const parts = { build: make("section"), rate: make("section"), results: make("section") };
const tabs = tabList(words.compare, {
  build: { text: words.test_build, panel: parts.build },
  rate: { text: words.test_rate, panel: parts.rate },
  results: { text: words.test_results, panel: parts.results },
});
element.querySelector(".tests").append(tabs.list, ...Object.values(parts));

let lastAnswer = -1;
window.testsHeard = (answer) => {
  if (answer.number === lastAnswer) return;
  lastAnswer = answer.number;
  heard[answer.to]?.(answer);
};
// What waits for its answer ends as by a fault, which a notice has told.
window.addEventListener("refused", ({ detail }) => {
  const [, to] = /^_tests_(.*)/.exec(detail.name) ?? [];
  heard[to]?.({ to, fault: { [language]: "" } });
});
