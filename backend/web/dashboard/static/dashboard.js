"use strict";
// Pictures are drawn a few at a time: one that was refused for that is asked for again.
for (const picture of document.querySelectorAll("img[data-again]")) {
  let left = 20;
  const again = () => {
    if (left-- > 0) setTimeout(() => { picture.src = picture.src; }, 1500 + 1500 * Math.random());
  };
  picture.addEventListener("error", again);
  if (picture.complete && picture.src && !picture.naturalWidth && picture.loading !== "lazy") again();
}
// Renews what is marked data-live, without moving the reader: not what holds the focus, not while
// the page is hidden, and not while somebody has opened a list in it.
(() => {
  const every = Number(document.body.dataset.refresh);
  if (!every) return;
  const renew = async () => {
    let next = every;
    try {
      if (!document.hidden) {
        const answer = await fetch(location.pathname, { credentials: "same-origin" });
        if (answer.ok) {
          const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
          next = Number(fresh.body.dataset.refresh) || every;
          for (const old of document.querySelectorAll("[data-live]")) {
            const now = fresh.getElementById(old.id);
            const busy = old.contains(document.activeElement) || old.querySelector("details[open]");
            if (now && !busy && now.innerHTML !== old.innerHTML) {
              old.replaceChildren(...now.childNodes);
            }
          }
        }
      }
    } catch {
      // The web restarts: the next turn finds it again.
    }
    setTimeout(renew, next * 1000);
  };
  setTimeout(renew, every * 1000);
})();
