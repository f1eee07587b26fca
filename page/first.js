// Runs before Gradio does, which ends its connections as soon as a page is asked to go, takes that
// for a lost server, tells it over a page that may yet stay, and loads it anew. They end with the
// page in any case.
window.addEventListener("beforeunload", (event) => event.stopImmediatePropagation());
