// A test is rated. Of the sounds nothing is known here but the sounds.
{
  const status = newStatus();
  const code = make("input", { type: "text", maxlength: 40, autocomplete: "off", spellcheck: "false" });
  const name = make("input", { type: "text", maxlength: 80, autocomplete: "nickname" });
  const begin = make("button", { type: "submit", className: "primary" }, words.test_begin);
  const entry = make("form", { className: "stack" },
    make("p", { className: "hint" }, words.test_rate_about),
    make("div", { className: "grid" }, labelled(words.test_code, code), labelled(words.test_rater, name, words.test_rater_about)),
    make("div", { className: "buttons" }, begin));
  const trial = make("div", { className: "trial", hidden: true, tabindex: -1 });
  let current = null;
  let blobs = [];

  entry.onsubmit = (event) => { event.preventDefault(); join(); };
  const place = () => `${code.value.trim()}/${name.value.trim()}`;
  const key = () => kept.value.raters[place()] ?? "";

  function join() {
    status.say(words.test_loading);
    ask("take", { code: code.value.trim(), name: name.value, key: key() });
  }

  function end() {
    player.sound?.pause();
    for (const blob of blobs) URL.revokeObjectURL(blob);
    blobs = [];
  }

  // The sounds are fetched at once: the server needn't keep them while somebody thinks.
  async function soundOf(path) {
    const sound = new Audio();
    const response = await fetch(address(path));
    if (!response.ok) throw new Error(response.status);
    const blob = URL.createObjectURL(await response.blob());
    blobs.push(blob);
    sound.src = blob;
    return sound;
  }

  heard.take = heard.rate = async (answer) => {
    if (answer.fault) {
      current?.again();
      return status.say(answer.fault[language], true);
    }
    const given = answer.trial;
    if (given.key) {
      kept.value.raters[place()] = given.key;
      kept.save();
    }
    end();
    try {
      const paths = given.reference ? [...given.sounds, given.reference] : given.sounds;
      show(given, await Promise.all(paths.map(soundOf)));
      status.say("");
    } catch {
      leave(); // what was answered is kept
      status.say(words.test_sounds_missing, true);
    }
  };

  function leave() {
    end();
    current = null;
    entry.hidden = false;
    window.pagePassFocus(trial, begin);
    trial.hidden = true;
  }

  function show(given, sounds) {
    entry.hidden = true;
    trial.hidden = false;
    trial.dataset.code = given.code;
    const isOver = given.position === given.total;
    const bar = make("progress", { max: given.total, value: given.position, "aria-label": words.test_position });
    const head = make("div", { className: "head" }, make("h2", {}, given.title),
      make("span", { className: "count" }, isOver ? "" : filled(words.test_trial, { place: given.position + 1, total: given.total })));
    if (isOver) {
      trial.replaceChildren(head, bar, make("p", { className: "done" }, words.test_done), make("div", { className: "buttons" }, button(words.test_leave, leave)));
      return trial.focus();
    }
    const shown = performance.now();
    const unheard = new Set(sounds);
    const next = button(words.test_next, send, "primary");
    const hint = make("span", { className: "hint" });
    const asked = make("p", { className: "question", id: "asked" }, given.question || words[`test_${given.kind}_question`]);
    const plays = sounds.map((sound, index) => playButton(nameOf(given, index), sound, (before) => {
      unheard.delete(sound);
      if (given.kind === "mushra" && before && before !== sound && sounds.includes(before)) sound.currentTime = Math.min(before.currentTime, sound.duration || 0);
      update();
    }));
    if (given.kind === "mushra") for (const sound of sounds) sound.loop = true;
    const answers = controls(given, plays, update);
    function update() {
      const value = answers.read();
      next.disabled = unheard.size > 0 || value === null;
      hint.textContent = unheard.size ? words.test_hear_all : value === null ? words.test_answer_first : "";
    }
    function send() {
      next.disabled = true;
      player.sound?.pause();
      const seconds = (performance.now() - shown) / 1000;
      ask("rate", { code: given.code, name: given.name, key: key(), position: given.position, answer: answers.read(), seconds });
    }
    current = { again() { update(); if (document.activeElement === document.body) next.focus(); } };
    trial.replaceChildren(head, bar, asked, answers.part, make("div", { className: "buttons" }, next, hint));
    update();
    trial.focus();
  }

  function nameOf({ kind, sounds }, index) {
    if (index === sounds.length) return kind === "abx" ? "X" : words.test_open_reference;
    return kind === "mos" || kind === "emotion" ? words.test_listen : "ABCDEFGHIJKLMNOP"[index];
  }

  // What is answered with, and what it says: null as long as nothing is chosen.
  function controls(given, plays, update) {
    if (given.kind === "mushra") return sliders(given, plays, update);
    const options = {
      mos: [1, 2, 3, 4, 5].map((score) => [score, `${score} ${words[`test_score_${score}`]}`]),
      ab: [[0, words.test_prefer_a], [-1, words.test_prefer_none], [1, words.test_prefer_b]],
      abx: [[0, words.test_x_is_a], [1, words.test_x_is_b]],
      emotion: given.words.map((word) => [word.value, word[language]]),
    }[given.kind];
    let value = null;
    const group = make("div", { role: "radiogroup", "aria-labelledby": "asked", className: `choices ${given.kind}` },
      ...options.map(([option, text]) => make("label", {}, make("input", { type: "radio", name: "answer", value: option, onchange: () => { value = option; update(); } }), make("span", {}, text))));
    return { part: make("div", { className: "stack" }, make("div", { className: "plays" }, ...plays), group), read: () => value };
  }

  function sliders(given, plays, update) {
    const values = given.sounds.map(() => null);
    const rows = given.sounds.map((_, index) => {
      const shown = make("output", {}, "–");
      const slider = make("input", { type: "range", min: 0, max: 100, step: 1, value: 50, "aria-label": filled(words.test_score_of, { name: nameOf(given, index) }) });
      slider.oninput = slider.onchange = () => {
        values[index] = Number(slider.value);
        shown.textContent = slider.value;
        update();
      };
      return make("div", { className: "slider" }, plays[index], slider, shown);
    });
    const scale = make("div", { className: "scale", "aria-hidden": "true" }, ...[1, 2, 3, 4, 5].map((score) => make("span", {}, words[`test_score_${score}`])));
    return {
      part: make("div", { className: "stack" }, make("div", { className: "plays" }, plays[given.sounds.length]), scale, ...rows),
      read: () => (values.includes(null) ? null : values),
    };
  }

  // Who was sent a link finds its code here, and their name where they have begun.
  window.testsJoin = (given) => {
    leave();
    code.value = given;
    const known = Object.keys(kept.value.raters).find((other) => other.startsWith(`${given}/`));
    if (known && !name.value) name.value = known.slice(given.length + 1);
    status.say("");
  };
  window.addEventListener("deleted", ({ detail }) => {
    if (trial.dataset.code === detail) leave();
    if (code.value === detail) code.value = "";
  });
  parts.rate.append(entry, trial, status.line);
  const linked = new URLSearchParams(location.search).get("test");
  if (linked) {
    tabs.show("rate");
    window.testsJoin(linked);
  }
}
