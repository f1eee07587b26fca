// A test is built: of conditions and prompts, or of sounds that were made elsewhere.
{
  const status = newStatus();
  const bar = make("progress", { hidden: true, "aria-label": words.test_building });
  const kinds = ["mos", "ab", "abx", "mushra", "emotion"];
  const title = make("input", { type: "text", maxlength: 120, value: words.test_title_example });
  const kind = choice(kinds.map((key) => [key, words[`test_${key}`]]), "ab");
  const about = make("p", { className: "hint", id: "kind-about" });
  const question = make("input", { type: "text", maxlength: 400, placeholder: "" });
  const origin = choice([["made", words.test_made_here], ["folder", words.test_folder]]);
  const conditions = make("div", { className: "conditions" });
  const texts = make("textarea", { rows: 4 });
  const recordings = make("ul", { className: "files" });
  const folder = make("ul", { className: "files" });
  const reference = choice([]);
  const add = button(words.test_add, () => newCondition(nextName()));
  const start = button(words.test_start, build, "primary");
  const halt = button(words.stop, () => ask("stop"));
  let chosen = []; // recordings: {path, name}
  let packed = null; // the zip file's path
  const underWay = new Set(); // "build", "bring"
  const offers = { [offer.models[0]]: offer }; // what may be set of a model's replies, by its name

  // Fields for what a model offers; one whose offer isn't known yet is left to itself.
  function settingsOf({ styles, voices, fields } = { styles: {}, voices: [], fields: [] }) {
    const style = choice([["", words.auto], ...Object.entries(styles).map(([key, text]) => [key, text[language]])], "");
    const voice = choice([["", words.auto], ...voices.map((key) => [key, key])], "");
    const numbers = fields.map(({ name: key, low, high, step, value }) => {
      const input = make("input", { type: "number", min: low, max: high, step, value });
      return [key, input];
    });
    const choices = [[words.style, style], [words.test_voice, voice]].filter(([, control]) => control.length > 1);
    return {
      choices: choices.map(([text, control]) => labelled(text, control)),
      numbers: numbers.map(([key, input]) => labelled(words[key] ?? key, input)),
      read: () => ({
        style: style.value,
        voice: voice.value,
        sampling: Object.fromEntries(numbers.map(([key, input]) => [key, Number(input.value)])),
      }),
    };
  }

  heard.settings = ({ fault, offer: known }) => {
    if (fault) return status.say(fault[language], true);
    offers[known.model] = known;
    status.say("");
    for (const row of conditions.children) row.offered(known.model);
  };

  function newCondition(name, values = {}) {
    const row = make("fieldset", { className: "condition" });
    const inputs = {
      name: make("input", { type: "text", maxlength: 80, value: name }),
      source: choice(["reply", "copy", "recording"].map((key) => [key, words[`test_source_${key}`]]), values.source),
      model: choice(offer.models.map((key) => [key, key])),
      seed: make("input", { type: "number", min: 0, step: 1, value: values.seed ?? "", placeholder: words.test_seed_drawn }),
    };
    const made = make("div", { className: "grid" });
    let settings = settingsOf();
    let fitted = null; // the model whose offer is shown
    const model = labelled(words.test_model, inputs.model);
    const remove = button("×", () => {
      const next = row.nextElementSibling ?? row.previousElementSibling;
      window.pagePassFocus(row, next?.querySelector(".remove") ?? add);
      row.remove();
      update();
    }, "remove");
    row.append(
      make("legend", {}, words.test_condition),
      make("div", { className: "grid" }, labelled(words.test_name, inputs.name), labelled(words.test_source, inputs.source), model),
      made,
      remove,
    );
    const show = () => {
      made.hidden = inputs.source.value !== "reply";
      model.hidden = inputs.source.value === "recording";
      remove.ariaLabel = `${words.test_remove} ${inputs.name.value}`;
      update();
    };
    row.read = () => ({
      name: inputs.name.value.trim(),
      source: inputs.source.value,
      model: inputs.source.value === "recording" ? "" : inputs.model.value,
      seed: inputs.seed.value === "" ? null : Number(inputs.seed.value),
      ...settings.read(),
    });
    const showSettings = () => {
      const known = offers[inputs.model.value];
      fitted = known ? inputs.model.value : null;
      settings = settingsOf(known);
      made.replaceChildren(...settings.choices, labelled(words.seed, inputs.seed), ...settings.numbers);
      return known;
    };
    inputs.source.onchange = inputs.name.oninput = show;
    row.offered = (name) => inputs.model.value === name && fitted !== name && showSettings();
    inputs.model.onchange = () => {
      if (showSettings()) return;
      status.say(filled(words.loading_model, { name: inputs.model.value }));
      ask("settings", { model: inputs.model.value });
    };
    showSettings();
    conditions.append(row);
    show();
  }

  function update() {
    const isMade = origin.value === "made";
    const rows = [...conditions.children].map((row) => row.read().name);
    const before = reference.value;
    reference.replaceChildren(...rows.map((name) => make("option", { value: name }, name)));
    if (rows.includes(before)) reference.value = before;
    about.textContent = words[`test_${kind.value}_about`];
    question.placeholder = words[`test_${kind.value}_question`];
    made.hidden = !isMade;
    uploaded.hidden = isMade;
    referenceField.hidden = kind.value !== "mushra" || !isMade;
    referenceName.hidden = kind.value !== "mushra" || isMade;
  }

  // Where an item that goes holds the focus, the one in its place gets it, or what adds items.
  function list(where, items, onremove) {
    const place = [...where.children].findIndex((item) => item.contains(document.activeElement));
    where.replaceChildren(...items.map((item) => make("li", {}, make("span", {}, item.name),
      make("button", { type: "button", className: "remove", "aria-label": `${words.test_remove} ${item.name}`, onclick: () => onremove(item) }, "×"))));
    if (place < 0) return;
    const next = where.children[Math.min(place, items.length - 1)] ?? where.nextElementSibling;
    next.querySelector("button").focus();
  }
  const showChosen = () => list(recordings, chosen, (item) => { chosen = chosen.filter((other) => other !== item); showChosen(); });

  function picker(text, accept, multiple, take) {
    const file = make("input", { type: "file", accept, multiple: multiple ? "" : null, tabindex: -1, "aria-hidden": "true", className: "unseen" });
    file.onchange = async () => {
      const files = [...file.files];
      file.value = "";
      const faults = [];
      for (const given of files) {
        status.say(filled(words.test_uploading, { name: given.name }));
        try {
          const { path } = await upload(given);
          take({ path, name: given.name });
        } catch (error) {
          const fault = window.pageUploadFault(error, given);
          faults.push(fault.includes(given.name) ? fault : `${given.name}: ${fault}`);
        }
      }
      status.say(faults.join("\n"), faults.length > 0);
    };
    return make("span", {}, file, button(text, () => file.click()));
  }

  const referenceField = labelled(words.test_reference, reference, words.test_reference_about);
  const named = make("input", { type: "text", maxlength: 80 });
  const referenceName = labelled(words.test_reference, named, words.test_reference_folder);
  const textsField = labelled(words.test_texts, texts, words.test_texts_about);
  const made = make("div", { className: "stack" },
    make("h2", {}, words.test_conditions), make("p", { className: "hint" }, words.test_conditions_about), conditions,
    make("div", { className: "buttons" }, add),
    make("h2", {}, words.test_prompts), textsField, recordings,
    make("div", { className: "buttons" },
      picker(words.test_add_recordings, "audio/*,.amr,.3gp", true, (item) => { chosen.push(item); showChosen(); }),
      offer.recordings.length ? button(words.test_add_examples, () => {
        chosen = [...chosen, ...offer.recordings
          .filter(({ path }) => !chosen.some((other) => other.path === path))
          .map(({ path, name }) => ({ path, name: name[language] }))];
        showChosen();
      }) : null));
  const uploaded = make("div", { className: "stack" },
    make("p", { className: "hint" }, words.test_folder_about), folder,
    picker(words.test_choose_zip, ".zip", false, (item) => {
      packed = item.path;
      list(folder, [item], () => { packed = null; list(folder, []); });
    }));

  const nextName = () => {
    const names = [...conditions.children].map((row) => row.read().name);
    return [..."ABCDEFGHIJKLMNOP"].find((name) => !names.includes(name)) ?? "";
  };

  function build() {
    const wish = { kind: kind.value, title: title.value, question: question.value };
    if (origin.value === "folder") {
      if (!packed) return status.say(words.test_no_zip, true);
      Object.assign(wish, { folder: packed, reference: named.value.trim() });
    } else {
      wish.conditions = [...conditions.children].map((row) => row.read());
      wish.texts = texts.value.split("\n").map((line) => line.trim()).filter(Boolean);
      wish.recordings = chosen.map(({ path }) => path);
      wish.reference = reference.value;
    }
    running("build", true);
    status.say(words.test_building);
    ask("build", wish);
  }

  function running(what, is) {
    underWay[is ? "add" : "delete"](what);
    start.disabled = underWay.size > 0;
    bar.hidden = !start.disabled;
    halt.hidden = !underWay.has("build");
    if (is) bar.removeAttribute("value");
  }

  heard.build = heard.bring = (answer) => {
    if (answer.total) {
      bar.max = answer.total;
      bar.value = answer.done;
      return status.say(filled(words.test_progress, answer));
    }
    if (answer.stopped) return stopped();
    running(answer.to, false);
    if (answer.fault) return status.say(answer.fault[language], true);
    status.say("");
    kept.value.owned[answer.built.key] = { title: answer.built.title, code: answer.built.code };
    kept.save();
    showBuilt(answer.built);
    window.testsOwned?.();
  };

  // Also if a stop was refused: what was built is no longer listened to.
  const stopped = (heard.stop = () => {
    running("build", false);
    status.say(words.stopped);
  });

  const built = make("div", { className: "built", hidden: true, tabindex: -1 });
  function showBuilt({ code, key, title: name }) {
    const link = new URL(location.href);
    link.search = `?test=${code}`;
    link.hash = "";
    const shown = (text, value, hint) => {
      const field = make("input", { type: "text", readonly: "", value, onfocus: (event) => event.target.select() });
      return labelled(text, field, hint);
    };
    built.hidden = false;
    built.dataset.code = code;
    built.replaceChildren(
      make("h2", {}, filled(words.test_ready, { title: name })),
      shown(words.test_link, link.href, words.test_link_about),
      shown(words.test_key, key, words.test_key_about),
      make("div", { className: "buttons" },
        button(words.test_rate, () => { tabs.show("rate", true); window.testsJoin(code); }, "primary"),
        button(words.test_results, () => { tabs.show("results", true); window.testsShow(key); })),
    );
    built.focus();
  }

  window.addEventListener("deleted", ({ detail }) => {
    if (built.dataset.code === detail) built.hidden = true;
  });

  parts.build.append(
    make("div", { className: "grid" }, labelled(words.test_title, title), labelled(words.test_kind, kind), labelled(words.test_origin, origin)),
    about, labelled(words.test_question, question, words.test_question_about),
    made, uploaded, referenceField, referenceName,
    make("div", { className: "buttons" }, start, halt,
      picker(words.test_import, ".zip", false, ({ path }) => { running("bring", true); ask("bring", { package: path }); })),
    bar, status.line, built,
  );
  kind.onchange = origin.onchange = update;
  newCondition("A", { seed: 1 });
  newCondition("B", { seed: 2 });
  texts.value = props.examples[language].slice(0, 3).join("\n");
  running("build", false);
  update();
}
