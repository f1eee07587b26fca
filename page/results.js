// What was found, for who built the test: a table, a picture, every sound with its settings.
{
  const status = newStatus();
  const mine = make("ul", { className: "files" });
  const key = make("input", { type: "text", maxlength: 60, autocomplete: "off", spellcheck: "false" });
  const found = make("div", { className: "stack", hidden: true, tabindex: -1 });
  const form = make("form", { className: "row-form" }, labelled(words.test_key, key), button(words.test_open, open, "primary"));
  form.onsubmit = (event) => { event.preventDefault(); open(); };
  const narrow = window.matchMedia("(width < 640px)");
  let sounds = {};
  let given = null; // what is shown

  function open() {
    status.say(words.test_loading);
    ask("results", { key: key.value.trim() });
  }
  function hideFound() {
    player.sound?.pause();
    window.pagePassFocus(found, key);
    found.hidden = true;
  }
  window.testsShow = (given) => { key.value = given; open(); };
  window.testsOwned = () => {
    const owned = Object.entries(kept.value.owned);
    mine.hidden = owned.length === 0;
    mine.replaceChildren(...owned.map(([own, { title, code }]) => make("li", {}, button(`${title} · ${code}`, () => window.testsShow(own), "link"))));
  };

  const number = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits));
  const isShare = (kind) => ["ab", "abx", "emotion"].includes(kind);
  const scaled = (kind, value) => (value === null ? null : isShare(kind) ? 100 * value : value);
  const digits = (kind) => (kind === "mos" ? 2 : 1);
  const pValue = (value) => (value < 0.001 ? "< 0.001" : value.toFixed(3));

  function table(caption, heads, rows) {
    return make("div", { className: "scroll", tabindex: 0, role: "region", "aria-label": caption }, make("table", {}, make("caption", {}, caption),
      make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))),
      make("tbody", {}, ...rows.map(([first, ...rest]) => make("tr", {}, make("th", { scope: "row" }, first), ...rest.map((cell) => make("td", {}, cell)))))));
  }

  function drawn(tag, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // A dot for each condition, and a line over its interval.
  function picture({ kind, estimates }) {
    const [low, high, marks] = { mos: [1, 5, [1, 2, 3, 4, 5]] }[kind] ?? [0, 100, [0, 25, 50, 75, 100]];
    const rows = Object.entries(estimates);
    const shown = rows.map(([name]) => (name.length > 18 ? `${name.slice(0, 17)}…` : name));
    const widths = shown.map((name) => [...name].reduce((sum, letter) => sum + (letter > "\u2e80" ? 13 : 8), 0));
    const left = 24 + Math.max(...widths);
    const right = left + (narrow.matches ? 230 : 410);
    const [top, step] = [12, 34];
    const bottom = top + step * rows.length;
    const x = (value) => left + ((Math.min(high, Math.max(low, value)) - low) / (high - low)) * (right - left);
    const said = rows.map(([name, { value }]) => `${name} ${number(scaled(kind, value), digits(kind))}`).join(", ");
    const svg = drawn("svg", { viewBox: `0 0 ${right + 24} ${bottom + 26}`, role: "img", "aria-label": said, class: "plot", style: `max-width: ${right + 24}px` });
    for (const mark of marks) {
      svg.append(drawn("line", { x1: x(mark), x2: x(mark), y1: top, y2: bottom, class: "rule" }));
      svg.append(drawn("text", { x: x(mark), y: bottom + 18, "text-anchor": "middle" }, mark));
    }
    rows.forEach(([, estimate], row) => {
      const y = top + step * (row + 0.5);
      const [value, from, to] = [estimate.value, estimate.low, estimate.high].map((one) => scaled(kind, one));
      svg.append(drawn("text", { x: left - 12, y: y + 4, "text-anchor": "end" }, shown[row]));
      if (from !== null) svg.append(drawn("line", { x1: x(from), x2: x(to), y1: y, y2: y, class: "whisker" }));
      svg.append(drawn("circle", { cx: x(value), cy: y, r: 5.5, class: "dot" }));
    });
    return svg;
  }

  function compared({ kind, comparisons }) {
    const p = [words.test_p, words.test_p_adjusted];
    const both = ({ first, second }) => (second ? `${first} / ${second}` : first);
    const ends = ({ p: raw, adjusted_p }) => [pValue(raw), pValue(adjusted_p)];
    const heads = {
      ab: [words.test_pair, words.test_wins_first, words.test_wins_second, words.test_ties],
      abx: [words.test_pair, words.test_right, words.test_wrong],
      emotion: [words.test_condition, words.test_right, words.test_wrong],
    }[kind] ?? [words.test_pair, words.test_count];
    const cells = {
      ab: ({ wins, losses, ties }) => [wins, losses, ties],
      abx: ({ wins, losses }) => [wins, losses],
      emotion: ({ wins, losses }) => [wins, losses],
    }[kind] ?? (({ count }) => [count]);
    const rows = comparisons.map((one) => [both(one), ...cells(one).map(String), ...ends(one)]);
    return table(words[`test_${kind}_compared`], [...heads, ...p], rows);
  }

  function heardSounds({ sounds: all, key: own }) {
    sounds = {};
    return make("details", {}, make("summary", {}, filled(words.test_sounds, { count: all.length })),
      make("p", { className: "hint" }, words.test_sounds_about),
      make("ul", { className: "heard" }, ...all.map(({ condition, prompt, settings, digest }) => {
        const sound = new Audio();
        const play = playButton(`${condition} · ${prompt}`, sound);
        const start = play.onclick;
        sound.onerror = () => {
          sound.pause();
          sound.removeAttribute("src"); // the next press asks for it again
          status.say(words.sound_failed, true);
        };
        play.onclick = () => {
          if (sound.src) return start();
          sounds[digest] = (path) => { status.say(""); sound.src = address(path); start(); };
          ask("hear", { key: own, digest });
        };
        return make("li", {}, play, make("details", {}, make("summary", {}, words.test_settings), make("pre", { tabindex: 0 }, JSON.stringify(settings, null, 1))));
      })));
  }
  heard.hear = ({ digest, path, fault }) => (fault ? status.say(fault[language], true) : sounds[digest]?.(path));

  heard.results = (answer) => {
    if (answer.fault) {
      hideFound();
      return status.say(answer.fault[language], true);
    }
    found.hidden = false;
    status.say("");
    given = answer.results;
    const { kind } = given;
    const rows = Object.entries(given.estimates).map(([name, one]) => [name, String(one.count),
      number(scaled(kind, one.value), digits(kind)),
      one.low === null ? "–" : `${number(scaled(kind, one.low), digits(kind))} – ${number(scaled(kind, one.high), digits(kind))}`]);
    const confusions = given.confusions.map(({ meant, chosen, count }) => [given.words[meant]?.[language] ?? meant, given.words[chosen]?.[language] ?? chosen, String(count)]);
    const csv = make("a", { href: address(given.csv), download: `ratings-${given.code}.csv`, className: "plain" }, words.test_csv);
    kept.value.owned[given.key] ??= { title: given.title, code: given.code };
    kept.save();
    window.testsOwned();
    found.replaceChildren(
      make("h2", {}, given.title),
      make("p", { className: "hint" }, filled(words.test_so_far, { raters: given.num_raters, ratings: given.num_ratings }),
        given.left_out.length ? ` ${filled(words.test_left_out, { names: given.left_out.join(", ") })}` : ""),
      ...(rows.length ? [picture(given),
        table(words[isShare(kind) ? "test_shares" : "test_means"], [words.test_condition, words.test_count, isShare(kind) ? "%" : words.test_mean, words.test_interval], rows),
        compared(given)] : []),
      ...(confusions.length ? [table(words.test_confusions, [words.test_meant, words.test_chosen, words.test_count], confusions)] : []),
      make("div", { className: "buttons" }, csv, button(words.test_export, () => ask("export", { key: given.key })),
        button(words.test_refresh, () => window.testsShow(given.key)), deletion(given)),
      heardSounds(given),
    );
    found.focus();
  };

  narrow.addEventListener("change", () => found.querySelector(".plot")?.replaceWith(picture(given)));

  // Asked for twice, as nothing brings it back.
  function deletion(given) {
    const made = button(words.test_delete, () => {
      if (made.dataset.sure) return ask("remove", { key: given.key });
      made.dataset.sure = "1";
      made.textContent = words.test_delete_sure;
    });
    return made;
  }
  heard.remove = ({ removed, fault }) => {
    if (fault) return status.say(fault[language], true);
    window.pageTell("deleted", kept.value.owned[removed]?.code);
    delete kept.value.owned[removed];
    kept.save();
    window.testsOwned();
    hideFound();
    status.say(words.test_deleted);
  };
  heard.export = ({ package: path, fault }) => {
    if (fault) return status.say(fault[language], true);
    const link = make("a", { href: address(path), download: path.split("/").pop() });
    link.click();
  };

  parts.results.append(make("p", { className: "hint" }, words.test_results_about), mine, form, status.line, found);
  window.testsOwned();
}
