// Runs before the page does: whose tab this is, the browser's language, what a refusal says.
{
  const chinese = /^zh\b/i.test(navigator.language);
  const words = window.pageWords[chinese ? "zh" : "en"];
  window.pageLanguage = chinese ? "zh" : "en";
  document.documentElement.lang = chinese ? "zh-CN" : "en";
  document.documentElement.classList.toggle("insecure", !window.isSecureContext);

  // A secret of this tab, which survives a reload; the server knows the visitor by it.
  let visitor = crypto.randomUUID?.();
  visitor ??= Array.from(crypto.getRandomValues(new Uint8Array(16)), (x) => x.toString(16)).join("");
  try {
    visitor = sessionStorage.getItem("visitor") ?? visitor;
    sessionStorage.setItem("visitor", visitor);
  } catch {} // storage is blocked: a reload is another visitor
  const send = window.fetch;
  window.fetch = async (what, options = {}) => {
    const url = new URL(what.url ?? what, document.baseURI);
    if (url.origin !== location.origin) return send(what, options);
    const headers = new Headers(options.headers ?? what.headers);
    headers.set("X-Visitor", visitor);
    const response = await send(what, { ...options, headers });
    if (response.ok || !url.pathname.endsWith("/upload")) return response;
    // A proxy before the server refuses in a page of its own.
    const isOurs = response.headers.get("content-type")?.startsWith("text/plain");
    const text = isOurs ? await response.text() : words.error_upload_by_proxy.replace("{status}", response.status);
    return new Response(text, { status: response.status });
  };

  // Gradio answers a browser of bare zh, or of zh-SG, in English: it is told once it has begun, in
  // the module that it offers its own language menu from.
  const begun = new MutationObserver(async () => {
    const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
    const core = loaded.find((name) => /\/core-[^/]*\.js$/.test(name));
    if (!core || !document.querySelector("#send")) return;
    begun.disconnect();
    (await import(core)).changeLocale?.("zh-CN");
  });
  if (chinese && navigator.language !== "zh-CN") {
    begun.observe(document.documentElement, { childList: true, subtree: true });
  }
}
