// Runs before the page does: the browser's language, what a refusal says.
{
  const chinese = /^zh\b/i.test(navigator.language);
  const words = window.pageWords[chinese ? "zh" : "en"];
  window.pageLanguage = chinese ? "zh" : "en";
  document.documentElement.lang = chinese ? "zh-CN" : "en";
  document.documentElement.classList.toggle("insecure", !window.isSecureContext);
  document.documentElement.style.setProperty("--error-title", JSON.stringify(words.error_title));

  const CLOSED_MILLISECONDS = 3000; // that an answer waits for a stream that is read no further
  const stream = { number: 0, signal: null }; // the last of events that Gradio's client has opened
  const send = window.fetch;
  window.fetch = async (what, options = {}) => {
    const url = new URL(what.url ?? what, document.baseURI);
    if (url.origin !== location.origin) return send(what, options);
    const headers = new Headers(options.headers ?? what.headers);
    if (url.pathname.endsWith("/queue/data")) {
      stream.number += 1;
      stream.signal = what.signal;
      headers.set("X-Stream", stream.number);
    }
    const isCall = url.pathname.endsWith("/queue/join");
    const response = await send(what, { ...options, headers }).catch((error) => {
      if (isCall) return unreachable();
      throw error;
    });
    if (isCall) {
      if (!response.ok) window.pageTell("refused", callOf(options.body));
      await closed(response.headers.get("X-Stream"));
    }
    if (response.ok || !url.pathname.endsWith("/upload")) return response;
    // A proxy before the server refuses in a page of its own.
    const isOurs = response.headers.get("content-type")?.startsWith("text/plain");
    const text = isOurs ? await response.text() : words.error_upload_by_proxy.replace("{status}", response.status);
    return new Response(text, { status: response.status });
  };

  // For a call that did not come through, Gradio's client would load the page anew, and with that
  // all would go that was chosen and written in it: the call alone has failed. A stream of events that
  // breaks off is left to it: the server has dropped what waits to be told there, and a server that
  // was started anew may have another page.
  function unreachable() {
    return Response.json({ detail: words.unreachable }, { status: 502 });
  }

  // The name of what handles a call on the server, and the call's number where it has one.
  function callOf(body) {
    const { fn_index, data } = JSON.parse(body);
    const { api_name: name } = window.gradio_config.dependencies.find(({ id }) => id === fn_index) ?? {};
    return { name, asked: data?.[0]?.asked };
  }

  // Gradio's client opens a stream of events for a call unless one is open, as far as it has read: it
  // learns of the call only once it has read, too, that the server had closed the last one before
  // it. Else nobody read the answer. A stream that broke off may never be read to its end.
  async function closed(number) {
    const { signal } = stream;
    if (number !== String(stream.number) || !signal || signal.aborted) return;
    await new Promise((read) => {
      signal.addEventListener("abort", read, { once: true });
      setTimeout(read, CLOSED_MILLISECONDS);
    });
  }

  // Gradio answers a browser of bare zh, or of zh-SG, in English: it is told once it has begun, in
  // the module that it offers its own language menu from. What it labels is not shown before.
  const root = document.documentElement;
  const begun = new MutationObserver(async () => {
    const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
    const core = loaded.find((name) => /\/core-[^/]*\.js$/.test(name));
    if (!core || !document.querySelector("#seed")) return;
    begun.disconnect();
    (await import(core)).changeLocale?.("zh-CN");
    let waits = 100;
    const waiting = setInterval(() => {
      if (!document.querySelector("#seed").textContent.includes(words.seed) && --waits) return;
      root.classList.remove("untranslated");
      clearInterval(waiting);
    }, 50);
  });
  if (chinese && navigator.language !== "zh-CN") {
    // Gradio reads the tabs' names but once, and before it is told.
    const names = { "talk-tab": words.tab_talk, "compare-tab": words.compare, "inspect-tab": words.inspect };
    for (const { props } of window.gradio_config.components) if (props?.elem_id in names) props.label = names[props.elem_id];
    root.classList.add("untranslated");
    begun.observe(root, { childList: true, subtree: true });
  }

  // What Gradio's client says, by how it begins, and what the page says instead: of an upload, if a
  // file is given.
  const GRADIOS = {
    "Connection to the server was lost": "broken_off",
    "Connection errored out": "unreachable",
    "This application is currently busy": "error_busy",
  };
  const UPLOADS = { "File(s) exceed the maximum allowed size": "error_file_large", "Connection errored out": "upload_unreachable" };
  const RECORDINGS = { ...UPLOADS, "Connection errored out": "recording_unreachable" };
  const inOurs = (text, said) => words[said[Object.keys(said).find((begin) => text.startsWith(begin))]];

  // Why a file was not uploaded; of a recording that is kept, with the button that uploads it `again`.
  window.pageUploadFault = (error, { name, size }, again = null) => {
    const text = String(error.message ?? error).replace(/^HTTP \d+: /, ""); // the server's words alone
    const values = { name, size, again, limit: window.gradio_config.max_file_size };
    return inOurs(text, again ? RECORDINGS : UPLOADS)?.replace(/\{(\w+)\}/g, (_, key) => values[key]) ?? text;
  };

  // Gradio's notices: in the page's language, and without a button that holds another one.
  const [headers, notices] = ["toast-header", "toast-message-text"].map((name) => document.getElementsByClassName(name));
  new MutationObserver(() => {
    for (const header of headers) for (const name of ["role", "tabindex"]) header.removeAttribute(name);
    for (const { parentElement } of headers) parentElement.querySelector(".toast-close")?.setAttribute("aria-label", words.close);
    for (const notice of notices) {
      const said = inOurs(notice.textContent, GRADIOS);
      if (said) notice.textContent = said;
    }
  }).observe(root, { childList: true, subtree: true });

  window.pageAsk = {}; // calls of the server, by name; each takes what is sent
  window.pageCalls = 0; // so far
  window.pageAsked = null; // when the user finished what is being answered
  window.pageTell = (name, detail = null) => window.dispatchEvent(new CustomEvent(name, { detail }));
  // To be called before something goes: what it holds of the keyboard's focus another place gets.
  window.pagePassFocus = (from, to) => from.contains(document.activeElement) && to.focus({ preventScroll: true });
  window.pageAddress = (path) => {
    const root = location.pathname.replace(/\/?$/, "/");
    return `${root}gradio_api/file=${path.split("/").map(encodeURIComponent).join("/")}`;
  };

  // Two sounds are never heard at once: not a player of this page and the reply either.
  document.addEventListener("play", ({ target }) => window.pageTell("silence", target), true);
  window.addEventListener("silence", ({ detail }) => {
    for (const other of document.querySelectorAll("audio, video")) if (other !== detail) other.pause();
  });

  // Words of attributes, which one language has at a time.
  window.pageLabel = (root) => {
    for (const made of root.querySelectorAll("[data-label]")) made.ariaLabel = made.title = words[made.dataset.label];
    for (const made of root.querySelectorAll("[data-placeholder]")) made.placeholder = words[made.dataset.placeholder];
  };
}
