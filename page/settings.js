// What follows the disclosure's button is shown and hidden by it. Gradio's accordion makes its fields
// when it is opened, and then sets them once more to what the server sent: what was typed at once
// would be lost.
const words = window.pageWords[window.pageLanguage];
const button = element.querySelector(".disclosure");
button.onclick = () => {
  button.ariaExpanded = String(button.ariaExpanded !== "true");
};

// Gradio gives radio buttons that belong together a name each, so that arrows don't move between
// them, and names a slider's parts in English.
const side = document.querySelector("#side");
function name() {
  for (const radio of side.querySelectorAll("fieldset input[type=radio]")) {
    const group = radio.closest("fieldset");
    if (radio.name === group.id) continue; // what is set anew is seen anew
    radio.name = group.id;
    group.role = "radiogroup";
    group.ariaLabel = words[group.id];
  }
  for (const part of side.querySelectorAll("[aria-label]")) {
    const of = part.ariaLabel.match(/^(?:number input|range slider) for (.*)$/)?.[1];
    if (of) part.ariaLabel = of;
    if (part.ariaLabel === "Reset to default value") part.ariaLabel = words.reset_value;
  }
}
new MutationObserver(name).observe(side, { childList: true, subtree: true, attributeFilter: ["name", "aria-label"] });
name();
