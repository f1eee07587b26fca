// The same turn answered once more, beside its reply: by another model, or with other settings.
// Follows chat.js, in whose scope it runs.
let panel = null; // where it is asked for; one at a time
let offered = null; // what to do with a model's settings once they come
let compared = 0; // the number of the call for the reply that the panel has asked for; 0 for none

function putBeside(reply, row) {
  let pair = reply.closest(".pair");
  if (!pair) {
    pair = make("div", "pair");
    reply.replaceWith(pair);
    pair.append(reply);
  }
  pair.append(row);
}

// The settings of a reply that differ from those of the one beside it.
function changes({ beside, reply }) {
  const other = rows.get(beside)?.turn.reply;
  if (!other || other.model !== reply.model) return [];
  return Object.entries(reply.settings)
    .filter(([name, value]) => other.settings[name] !== value)
    .map(([name, value]) => `${words[name] ?? name} ${words[value] ?? value}`);
}

function field(label, control) {
  const made = make("label", "field", label);
  made.append(control);
  return made;
}

function select(options, value) {
  const made = document.createElement("select");
  for (const [key, text] of options) made.append(new Option(text, key));
  if (options.some(([key]) => key === value)) made.value = value;
  return made;
}

function number(low, high, step, value) {
  return Object.assign(document.createElement("input"), { type: "number", min: low, max: high, step, value });
}

function closePanel() {
  if (!panel) return;
  window.pagePassFocus(panel, rows.get(panel.dataset.turn)?.bot.querySelector(".compare") ?? log);
  panel.remove();
  panel = null;
  compared = 0;
}

function openPanel({ name, reply }) {
  const isOpen = panel?.dataset.turn === name;
  closePanel();
  if (isOpen) return;
  panel = make("form", "panel");
  panel.dataset.turn = name;
  panel.noValidate = true; // the server says what is allowed
  const model = select(props.models.map((key) => [key, key]), reply.model);
  const seed = number(0, Number.MAX_SAFE_INTEGER, 1, "");
  seed.placeholder = words.beside_seed_drawn;
  const settings = make("div", "grid");
  const [answer, cancel] = [make("button", "primary", words.beside_answer), make("button", "plain", words.beside_cancel)];
  cancel.type = "button";
  cancel.onclick = closePanel;
  const first = make("div", "grid");
  first.append(field(words.test_model, model), field(words.beside_seed.replace("{seed}", reply.seed), seed));
  const keys = make("div", "buttons");
  keys.append(answer, cancel);
  panel.append(first, settings, keys);
  const asked = panel;
  let read = () => ({});
  const load = () => {
    answer.disabled = true;
    settings.replaceChildren();
    offered = (offer) => {
      if (panel !== asked || offer.model !== model.value) return;
      read = showSettings(settings, offer, reply);
      answer.disabled = false;
      panel.scrollIntoView({ block: "nearest" });
    };
    window.pageAsk.offer({ model: model.value });
  };
  model.onchange = load;
  asked.onsubmit = (event) => {
    event.preventDefault();
    if (compared) return;
    window.pageTell("leave");
    window.pageTell("silence");
    window.pageAsked = performance.now();
    window.pageAsk.compare({ turn: name, model: model.value, seed: seed.value === "" ? null : Number(seed.value), ...read() });
    compared = window.pageCalls;
    window.pageStatus("busy", "sending");
  };
  asked.onkeydown = (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    closePanel();
  };
  const row = rows.get(name).bot;
  (row.closest(".pair") ?? row).after(panel);
  load();
  model.focus();
}

// Fields for what a model offers, which begin as the reply was made where they can.
function showSettings(where, { styles, voices, fields }, { settings }) {
  const style = select([["", words.auto], ...Object.entries(styles).map(([key, text]) => [key, text[language]])], settings.style ?? "");
  const voice = select([["", words.auto], ...voices.map((key) => [key, key])], settings.voice ?? "");
  const numbers = fields.map(({ name, low, high, step, value }) => [name, number(low, high, step, settings[name] ?? value)]);
  if (style.length > 1) where.append(field(words.style, style));
  if (voice.length > 1) where.append(field(words.voice, voice));
  for (const [name, input] of numbers) where.append(field(words[name] ?? name, input));
  return () => ({
    style: style.value,
    voice: voice.value,
    sampling: Object.fromEntries(numbers.map(([name, input]) => [name, Number(input.value)])),
  });
}

window.pageOffered = (offer) => offered?.(offer);
window.addEventListener("refused", ({ detail: { name } }) => {
  if (name === "offer") closePanel();
  if (name === "compare") compared = 0;
});
// What was filled in can be changed and sent again, unless a reply has begun, which closes the panel.
window.addEventListener("status", ({ detail: { kind, by, asked } }) => {
  if (by === "reply" && kind !== "busy" && asked >= compared) compared = 0;
});
