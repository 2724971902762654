// Fetches the page again when the server says that something has changed, and puts its main part in place.
"use strict";
(() => {
  const where = document.body.dataset.live;
  const lost = document.getElementById("lost");
  let wanted = false;
  let under = false;

  // Local times on demand: the server says how long ago, the browser's clock and zone say when.
  const times = (root) => {
    for (const time of root.querySelectorAll("time")) {
      time.title = new Date(time.dateTime).toLocaleString(document.documentElement.lang);
    }
  };
  times(document);
  if (location.search.includes("done=")) history.replaceState(null, "", location.pathname);
  if (!where) return;

  // Where the reader is: what is open, what has the focus.
  const place = (root) => ({
    open: [...root.querySelectorAll("details[open]")].map((one) => one.id),
    focus: root.contains(document.activeElement) ? keyOf(document.activeElement) : null,
  });
  const keyOf = (one) => one.id ? `#${CSS.escape(one.id)}` : one.getAttribute("href") ? `a[href="${CSS.escape(one.getAttribute("href"))}"]` : null;
  const restore = (root, before) => {
    for (const id of before.open) document.getElementById(id)?.setAttribute("open", "");
    if (before.focus) root.querySelector(before.focus)?.focus({ preventScroll: true });
  };

  const refresh = async () => {
    if (under) { wanted = true; return; }
    under = true;
    try {
      const reply = await fetch(location.href, { headers: { "X-Refresh": "1" }, cache: "no-store" });
      if (reply.status === 401) { location.reload(); return; }
      const fresh = new DOMParser().parseFromString(await reply.text(), "text/html").getElementById("live");
      const old = document.getElementById("live");
      if (fresh && !window.getSelection()?.toString()) {
        const before = place(old);
        old.replaceChildren(...fresh.childNodes);
        restore(old, before);
        times(old);
      }
      lost.hidden = true;
    } catch {
      lost.hidden = false;
    }
    under = false;
    if (wanted) { wanted = false; setTimeout(refresh, 500); }
  };

  let source = null;
  const listen = () => {
    source = new EventSource(where);
    source.addEventListener("change", refresh);
    source.addEventListener("error", () => {
      lost.hidden = false;
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
    });
  };
  listen();
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => { if (event.persisted) { listen(); refresh(); } });
})();
