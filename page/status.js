// What goes on, in one line: said by the server, or by the page itself through pageStatus. A fault
// stays until something else begins: a reply that was under way goes on and ends beside it. The
// event "status" tells which of the two has spoken: of a reply the server alone knows.
const language = window.pageLanguage;
const said = element.querySelector("[role=status]");
const fault = element.querySelector("[role=alert]");
const bar = element.querySelector("progress");
const time = element.querySelector(".time");

function show({ kind, text, progress, goes_on: goesOn }, isServers) {
  const words = text?.[language] ?? "";
  const isFault = kind === "fault";
  if (said.textContent !== (isFault ? "" : words)) said.textContent = isFault ? "" : words;
  if (!goesOn) fault.textContent = isFault ? words : "";
  bar.hidden = time.hidden = !progress;
  if (progress) {
    bar.max = progress.max;
    bar.value = progress.done;
    time.textContent = `${progress.done.toFixed(1)} / ${Math.round(progress.max)} s`;
  }
  element.querySelector(".status").dataset.kind = kind;
  window.dispatchEvent(new CustomEvent("status", { detail: { kind, isServers } }));
}

// Beside what only `goesOn`, a fault stays.
window.pageStatus = (kind, key, values = {}, goesOn = false) => {
  let words = key ? window.pageWords[language][key] : "";
  for (const [name, value] of Object.entries(values)) words = words.replace(`{${name}}`, value);
  show({ kind, text: { [language]: words }, goes_on: goesOn }, false);
};
watch("value", () => {
  if (props.value) show(JSON.parse(props.value), true);
});
window.addEventListener("turn", () => {
  fault.textContent = "";
});
