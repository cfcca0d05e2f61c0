// The gallery's only script, written by `safesteer report`: the model switch of all pages, the filters of the first, and links that open what they point to.
(() => {
  "use strict";
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);
  const asked = new URLSearchParams(location.search);
  const choice = one("#model");
  let model = asked.get("model") || "";

  function keep() {
    // The model travels in the address, so that it stays chosen on the next page, from disk as from a server.
    for (const link of all("a[data-page]")) {
      const [path, anchor] = link.getAttribute("href").split("#");
      const bare = path.split("?")[0];
      link.setAttribute("href", bare + (model && model !== "*" ? "?model=" + encodeURIComponent(model) : "") + (anchor ? "#" + anchor : ""));
    }
    const words = new URLSearchParams(location.search);
    model ? words.set("model", model) : words.delete("model");
    const query = words.toString();
    try {
      history.replaceState(null, "", location.pathname + (query ? "?" + query : "") + location.hash);
    } catch (refused) {
      // A browser that rewrites no address of a file still shows the model that was chosen.
    }
  }

  function show() {
    const every = model === "*";
    document.body.classList.toggle("side", every);
    for (const box of all("[data-switch]")) {
      const entries = [...box.children].filter((child) => child.dataset.entry);
      const wanted = entries.find((entry) => entry.dataset.entry === model);
      const given = wanted || entries[0];
      for (const entry of entries) entry.hidden = !every && entry !== given;
      const absent = box.previousElementSibling;
      if (absent && absent.hasAttribute("data-absent")) {
        absent.hidden = every || !model || Boolean(wanted);
        absent.querySelector("[data-wanted]").textContent = model;
        absent.querySelector("[data-given]").textContent = given ? given.dataset.entry : "";
      }
    }
  }

  function open() {
    // A link to a claim opens it, and the model it belongs to.
    let target = null;
    try {
      target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    } catch (malformed) {
      return;
    }
    if (!target) return;
    const entry = target.closest("[data-entry]");
    if (entry && entry.hidden) {
      model = entry.dataset.entry;
      if (choice) choice.value = model;
      keep();
      show();
    }
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    target.scrollIntoView();
  }

  function filter() {
    const [words, verdict, item, kind] = ["#q", "#verdict", "#item", "#kind"].map((id) => one(id).value.trim().toLowerCase());
    const parts = words.split(/\s+/).filter(Boolean);
    let cards = 0;
    let claims = 0;
    for (const card of all(".card")) {
      const items = card.dataset.items.toLowerCase().split("|").filter(Boolean);
      const about = card.dataset.text.toLowerCase();
      const placed = !item || (item === "-" ? !items.length : items.includes(item));
      const list = card.querySelector(".hits");
      const lines = all("li", list);
      const names = lines.map((line) => line.dataset.entry);
      const current = names.includes(model) ? model : names[0];
      let found = 0;
      for (const line of lines) {
        const text = about + " " + line.textContent.toLowerCase();
        const fits = line.dataset.entry === current && (!verdict || line.dataset.verdict === verdict)
          && (!kind || line.dataset.kind === kind) && parts.every((part) => text.includes(part));
        line.hidden = !fits;
        found += fits;
      }
      const chosen = Boolean(verdict || kind || parts.length);
      card.hidden = !(placed && (!chosen || found || (!verdict && !kind && parts.every((part) => about.includes(part)))));
      list.hidden = !chosen || !found;
      if (!card.hidden) {
        cards += 1;
        claims += chosen ? found : 0;
      }
    }
    one("#count").textContent = cards + (cards === 1 ? " finding" : " findings") + (claims ? ", " + claims + (claims === 1 ? " claim" : " claims") : "");
    one("#nothing").hidden = cards > 0;
  }

  if (choice) {
    // Nothing is chosen at first; a model that this page has not is said, and kept for the next page.
    choice.selectedIndex = model ? all("option", choice).findIndex((option) => option.value === model) : 0;
    choice.addEventListener("change", () => {
      model = choice.value;
      keep();
      show();
      if (one("#filters")) filter();
    });
  }
  keep();
  show();
  const filters = one("#filters");
  if (filters) {
    filters.addEventListener("input", filter);
    filters.addEventListener("submit", (event) => event.preventDefault());
    filters.addEventListener("reset", () => setTimeout(filter));
  }
  const place = (event) => {
    // The meaning of a word that stands near the right edge opens to the left.
    const word = event.target.closest && event.target.closest(".term");
    if (word) word.classList.toggle("ends", word.getBoundingClientRect().left + 340 > document.documentElement.clientWidth);
  };
  document.addEventListener("pointerover", place);
  document.addEventListener("focusin", place);
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
    if (event.key === "/" && filters && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      one("#q").focus();
    }
    if (event.key === "Escape") for (const menu of all("details.menu[open]")) menu.open = false;
  });
  document.addEventListener("click", (event) => {
    for (const menu of all("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });
  if (matchMedia("(max-width: 44rem)").matches) for (const part of all("details.more")) part.open = false;
  const up = one(".up");
  const far = () => up.classList.toggle("far", scrollY > innerHeight / 2);
  addEventListener("scroll", far, {passive: true});
  far();
  addEventListener("beforeprint", () => all("details.more").forEach((part) => (part.open = true)));
  addEventListener("hashchange", open);
  open();
})();
