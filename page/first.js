// Runs before Gradio does.
{
  // A secret of this tab, which survives a reload; the server knows the visitor by it.
  let visitor = crypto.randomUUID?.();
  visitor ??= Array.from(crypto.getRandomValues(new Uint8Array(16)), (x) => x.toString(16)).join("");
  try {
    visitor = sessionStorage.getItem("visitor") ?? visitor;
    sessionStorage.setItem("visitor", visitor);
  } catch {} // storage is blocked: a reload is another visitor
  const send = window.fetch;
  window.fetch = (what, options = {}) => {
    const url = new URL(what.url ?? what, document.baseURI);
    if (url.origin !== location.origin) return send(what, options);
    const headers = new Headers(options.headers ?? what.headers);
    headers.set("X-Visitor", visitor);
    return send(what, { ...options, headers });
  };

  // By this, the server knows that the page is open. Hidden tabs' timers run once a minute.
  const HERE_MILLISECONDS = 60_000;
  const address = `${location.pathname.replace(/\/?$/, "/")}here`;
  const here = () => window.fetch(address).catch(() => {});
  here();
  setInterval(here, HERE_MILLISECONDS);
  document.addEventListener("visibilitychange", () => document.hidden || here());
}

// Gradio ends its connections as soon as a page is asked to go, takes that for a lost server, tells
// it over a page that may yet stay, and loads it anew. They end with the page in any case.
window.addEventListener("beforeunload", (event) => event.stopImmediatePropagation());
