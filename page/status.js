// What goes on, in one line: said by the server of a "reply", in a "notice" of anything else, or by
// the "page" itself through pageStatus. A fault stays until something else begins: a reply that was
// under way goes on and ends beside it. The event "status" tells which of the three has spoken: of a
// reply the first alone knows, and which call of the page it answers.
const language = window.pageLanguage;
const said = element.querySelector("[role=status]");
const fault = element.querySelector("[role=alert]");
const bar = element.querySelector("progress");
const time = element.querySelector(".time");
let reply = null; // what was said last of one that waits or is made
let number = 0; // of what the server told last

function show(told, by) {
  const isFault = told.kind === "fault";
  if (!told.goes_on) fault.textContent = isFault ? told.text[language] : "";
  const goesOn = by === "notice" && reply && (isFault || !told.kind);
  const { kind, text, progress } = goesOn ? reply : told;
  const words = kind === "fault" ? "" : text?.[language] ?? "";
  if (said.textContent !== words) said.textContent = words;
  bar.hidden = time.hidden = !progress;
  if (progress) {
    bar.max = progress.max;
    bar.value = progress.done;
    time.textContent = `${progress.done.toFixed(1)} / ${Math.round(progress.max)} s`;
  }
  element.querySelector(".status").dataset.kind = kind;
  window.dispatchEvent(new CustomEvent("status", { detail: { kind: told.kind, by, asked: told.asked } }));
}

// Beside what only `goesOn`, a fault stays.
window.pageStatus = (kind, key, values = {}, goesOn = false) => {
  let words = key ? window.pageWords[language][key] : "";
  for (const [name, value] of Object.entries(values)) words = words.replace(`{${name}}`, value);
  show({ kind, text: { [language]: words }, goes_on: goesOn }, "page");
};
watch("value", () => {
  if (!props.value) return;
  const told = JSON.parse(props.value);
  if (told.number < number) return; // of a call that this one has ended or replaced
  number = told.number;
  reply = told.kind === "busy" ? told : null;
  show(told, "reply");
});
window.pageNotice = (told) => show(told, "notice");
window.addEventListener("turn", () => {
  fault.textContent = "";
});
