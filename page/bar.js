// Above the conversation: begin anew, save, load.
const file = element.querySelector("input");
let loading = null; // what is uploaded, until something else begins
const about = element.querySelector(".about"); // of the model, where there is no room for all of it
window.pageLabel(element);
about.onclick = () => {
  about.ariaExpanded = String(about.ariaExpanded !== "true");
};
element.querySelector(".new").onclick = () => {
  window.pageTell("leave");
  window.pageTell("silence");
  window.pageAsk.reset({});
};
element.querySelector(".save").onclick = () => window.pageAsk.save({});
element.querySelector(".load").onclick = () => file.click();
file.onchange = async () => {
  const given = file.files[0];
  file.value = "";
  if (!given) return;
  window.pageTell("leave");
  window.pageTell("silence");
  window.pageStatus("busy", "uploading");
  const mine = (loading = {});
  try {
    const { path } = await upload(given);
    if (mine !== loading) return;
    loading = null;
    window.pageAsk.load({ file: { path } });
  } catch (error) {
    if (mine !== loading) return;
    loading = null;
    window.pageStatus("fault", "upload_failed", { reason: window.pageUploadFault(error, given) });
  }
};
window.addEventListener("leave", () => {
  loading = null;
});
// A reply that was under way ends meanwhile: then it is said again, after all have heard that.
window.addEventListener("status", ({ detail: { kind } }) => {
  if (kind !== "busy") queueMicrotask(() => loading && window.pageStatus("busy", "uploading", {}, true));
});
window.addEventListener("refused", ({ detail: { name } }) => name === "load" && window.pageStatus(""));

// How far down the conversation begins, for page.css: it takes the rest of the window.
const card = document.querySelector("#card");
const place = () => {
  if (!card.offsetParent) return; // another tab is shown
  const top = card.getBoundingClientRect().top + window.scrollY;
  document.documentElement.style.setProperty("--card-top", `${Math.round(top)}px`);
};
new ResizeObserver(place).observe(document.body);
place();
