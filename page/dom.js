// What the scripts of the tabs beside the conversation share. Whatever came from a user becomes
// text, never HTML.
const language = window.pageLanguage;
const words = window.pageWords[language];
const address = window.pageAddress;
let numMade = 0;

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on") || ["className", "value", "checked", "disabled", "hidden"].includes(name)) made[name] = value;
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// A text with its {values} filled in.
function filled(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// A control with its label, and a hint beneath.
function labelled(text, control, hint) {
  control.id ||= `made-${(numMade += 1)}`;
  const label = make("label", { for: control.id }, text);
  const note = hint ? make("small", { id: `${control.id}-hint` }, hint) : null;
  if (note) control.setAttribute("aria-describedby", note.id);
  return make("div", { className: "field" }, label, control, note);
}

function choice(options, value) {
  const select = make("select");
  for (const [key, text] of options) select.append(make("option", { value: key }, text));
  if (value !== undefined) select.value = value;
  return select;
}

function button(text, onclick, className = "plain") {
  return make("button", { type: "button", className, onclick }, text);
}

// One of several pieces is shown; arrows, Home and End move between them, as in all tab lists.
function tabList(name, tabs) {
  const list = make("div", { role: "tablist", "aria-label": name, className: "segments" });
  const show = (key, focus = false) => {
    for (const [other, tab] of Object.entries(tabs)) {
      tab.button.ariaSelected = String(other === key);
      tab.button.tabIndex = other === key ? 0 : -1;
      tab.panel.hidden = other !== key;
    }
    if (focus) tabs[key].button.focus();
  };
  const keys = Object.keys(tabs);
  for (const [key, tab] of Object.entries(tabs)) {
    tab.panel.id ||= `made-${(numMade += 1)}`;
    tab.button = make("button", { type: "button", role: "tab", id: `${tab.panel.id}-tab`, "aria-controls": tab.panel.id, onclick: () => show(key) }, tab.text);
    tab.button.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const place = { Home: 0, End: keys.length - 1 }[event.key] ?? (step && (keys.indexOf(key) + step + keys.length) % keys.length);
      if (place === undefined) return;
      event.preventDefault();
      show(keys[place], true);
    };
    tab.panel.setAttribute("role", "tabpanel");
    tab.panel.setAttribute("aria-labelledby", tab.button.id);
    list.append(tab.button);
  }
  show(keys[0]);
  return { list, show };
}
