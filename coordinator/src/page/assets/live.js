// Brings the page up to date when the server says that something has changed. The page is whole without it.
"use strict";

const main = document.querySelector("main[data-events]");

if (main) {
  let wanted = false; // a change came while one was being fetched
  let fetching = false;

  // Replaces what differs, region by region, so that focus, selection and scrolling stay where they are.
  const show = (text) => {
    const next = new DOMParser().parseFromString(text, "text/html");
    for (const region of next.querySelectorAll("[data-live]")) {
      const now = document.getElementById(region.id);
      if (!now) return location.reload();
      if (now.innerHTML === region.innerHTML) continue;
      const focused = now.contains(document.activeElement) && document.activeElement.getAttribute("href");
      now.replaceChildren(...region.childNodes);
      if (focused) [...now.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
    }
  };

  const refresh = async () => {
    if (fetching) return void (wanted = true);
    fetching = true;
    try {
      do {
        wanted = false;
        const answer = await fetch(location.href, { redirect: "error" });
        if (!answer.ok) throw new Error("signed out");
        show(await answer.text());
      } while (wanted);
    } catch {
      source.close();
      location.reload();
    } finally {
      fetching = false;
    }
  };

  const source = new EventSource(main.dataset.events);
  source.addEventListener("change", refresh);
  source.addEventListener("over", () => source.close());
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}
