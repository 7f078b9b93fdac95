(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const sheets = JSON.parse(document.getElementById("gallery-sheets").textContent);
  const root = document.getElementById("gallery"), form = root.querySelector("form");
  const list = root.querySelector(".pairs"), count = root.querySelector(".count");
  const dialog = root.querySelector("dialog"), more = root.querySelector(".show-more");
  const PAGE = 12, KEYS = ["set", "domain", "score", "change", "truth", "sort", "text"];
  const scores = Object.fromEntries(data.scores.map(score => [score.name, score]));
  const truth = scores.truth, images = {}, pairs = [];
  data.sets.forEach((set, place) => {
    for (let row = 0; row < data.sizes[place]; row++) pairs.push({ index: pairs.length, set, row });
  });
  let shown = [], limit = PAGE, opened = -1;

  const text = (value, decimals) => value.toFixed(decimals).replace("-", "\u2212");
  const signed = (value, decimals) => (value >= 0 ? "+" : "") + text(value, decimals);
  const gain = (score, index) => score.tuned[index] - score.base[index];
  const percent = share => Math.round(100 * share) + "\u00a0%";
  const element = (tag, options = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), options);
    made.append(...children);
    return made;
  };
  const chosen = () => scores[form.elements.score.value] || data.scores[0];

  function fill(select, entries) {
    select.append(...entries.map(([value, label]) => element("option", { value, textContent: label })));
  }

  function draw(canvas, pair, side) {
    const sheet = sheets[pair.set][side], image = images[pair.set][side];
    const [width, height] = sheet.sizes ? sheet.sizes[pair.row] : [sheet.width, sheet.height];
    canvas.width = width;
    canvas.height = height;
    const x = pair.row % sheet.columns * sheet.width, y = Math.floor(pair.row / sheet.columns) * sheet.height;
    canvas.getContext("2d").drawImage(image, x, y, width, height, 0, 0, width, height);
  }

  function compare(pair, large) {
    const prompt = data.prompts[data.prompt[pair.index]], box = element("div", { className: "compare" });
    const range = element("input", { type: "range", min: 0, max: 100, value: 50 });
    range.setAttribute("aria-label", `From ${data.sides[0]} to ${data.sides[1]}: ${prompt}`);
    box.style.setProperty("--cut", "50%");
    range.addEventListener("input", () => box.style.setProperty("--cut", range.value + "%"));
    for (const side of [0, 1]) {
      const canvas = element("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", data.sides[side] + ": " + prompt);
      draw(canvas, pair, side);
      box.append(canvas);
      if (large && data.full) {  // the picture itself, once it is there
        const name = `${data.full}/${encodeURIComponent(pair.set)}/${String(pair.row).padStart(6, "0")}-${side ? "tuned" : "base"}.jpg`;
        const image = new Image();
        image.alt = canvas.getAttribute("aria-label");
        image.addEventListener("load", () => canvas.replaceWith(image));
        image.src = name;
      }
    }
    box.append(range);
    if (!large) {
      let at = null, before = 50;
      range.addEventListener("pointerdown", event => { at = event.clientX; before = range.value; }, true);
      range.addEventListener("click", event => {
        if (at !== null && Math.abs(event.clientX - at) < 4) {
          range.value = before;
          box.style.setProperty("--cut", before + "%");
          open(pair.index);
        }
      });
      range.addEventListener("keydown", event => { if (event.key === "Enter") open(pair.index); });
    }
    return box;
  }

  function card(pair) {
    const score = chosen(), numbers = element("p", { className: "numbers" });
    if (score) numbers.append(element("span", {}, text(score.base[pair.index], score.decimals) + " \u2192 ",
      element("b", { textContent: text(score.tuned[pair.index], score.decimals) })));
    if (truth) numbers.append(element("span", { className: "truth", textContent:
      "truth " + percent(truth.base[pair.index]) + " \u2192 " + percent(truth.tuned[pair.index]) }));
    const button = element("button", { type: "button", className: "open", textContent: "enlarge" });
    button.setAttribute("aria-label", "Enlarge: " + data.prompts[data.prompt[pair.index]]);
    button.addEventListener("click", () => open(pair.index));
    numbers.append(button);
    return element("article", { className: "card" }, compare(pair, false), numbers,
      element("p", { className: "prompt", textContent: data.prompts[data.prompt[pair.index]] }));
  }

  function keep(pair) {
    const wanted = form.elements, score = chosen(), words = wanted.text.value.toLowerCase();
    const moved = score ? gain(score, pair.index) : 0, better = truth ? gain(truth, pair.index) : 0;
    return (!wanted.set.value || pair.set === wanted.set.value)
      && (!wanted.domain.value || data.domains[data.domain[pair.index]] === wanted.domain.value)
      && (!wanted.change.value || (wanted.change.value === "up" ? moved > 0 : moved < 0))
      && (!truth || !wanted.truth.value
        || { up: better > 0, down: better < 0, same: better === 0 }[wanted.truth.value])
      && (!words || data.prompts[data.prompt[pair.index]].toLowerCase().includes(words));
  }

  function order(name) {
    const score = chosen(), by = {
      gain: score && (pair => -gain(score, pair.index)),
      loss: score && (pair => gain(score, pair.index)),
      high: score && (pair => -score.tuned[pair.index]),
      low: score && (pair => score.tuned[pair.index]),
      "truth-gain": truth && (pair => -gain(truth, pair.index)),
      "truth-loss": truth && (pair => gain(truth, pair.index)),
    }[name];
    return by ? (one, other) => by(one) - by(other) || one.index - other.index : () => 0;
  }

  function summary() {
    const score = chosen();
    let told = `${shown.length.toLocaleString("en")} of ${pairs.length.toLocaleString("en")} pairs`;
    if (score && shown.length) {
      const changes = shown.map(pair => gain(score, pair.index));
      const mean = changes.reduce((sum, value) => sum + value, 0) / changes.length;
      const wins = changes.reduce((sum, value) => sum + (Math.sign(value) + 1) / 2, 0) / changes.length;
      told += `: ${score.title} ${signed(mean, score.decimals)} on average, ${percent(wins)} won`;
    }
    if (truth && shown.length) {
      const changes = shown.map(pair => Math.sign(gain(truth, pair.index)));
      told += `; truly better ${changes.filter(sign => sign > 0).length}, worse ${changes.filter(sign => sign < 0).length}`;
    }
    return told;
  }

  function show() {
    shown = pairs.filter(keep).sort(order(form.elements.sort.value));
    list.replaceChildren(...shown.slice(0, limit).map(card));
    count.textContent = summary();
    more.hidden = shown.length <= limit;
  }

  function change() {
    limit = PAGE;
    show();
    const state = KEYS.filter(key => form.elements[key].value && form.elements[key].value !== initial[key])
      .map(key => `${key}=${encodeURIComponent(form.elements[key].value)}`).join("&");
    try { history.replaceState(null, "", state ? "#pictures&" + state : "#pictures"); } catch { /* not from this address */ }
  }

  function restore() {
    const parts = location.hash.slice(1).split("&");
    if (parts[0] !== "pictures" || parts.length < 2) return;
    for (const part of parts.slice(1)) {
      const [key, value] = part.split("=");
      if (KEYS.includes(key) && value !== undefined) {
        try { form.elements[key].value = decodeURIComponent(value); } catch { continue; }
      }
    }
    document.getElementById("pictures").scrollIntoView();
  }

  function open(index) {
    const pair = pairs[index];
    opened = shown.indexOf(pair);
    dialog.querySelector(".large").replaceChildren(compare(pair, true));
    dialog.querySelector(".prompt").textContent = data.prompts[data.prompt[index]];
    dialog.querySelector(".meta").textContent =
      `${pair.set}, ${data.domains[data.domain[index]]}, seed ${data.seed[index]}`;
    dialog.querySelector("tbody").replaceChildren(...data.scores.map(score => element("tr", {},
      Object.assign(element("th", { textContent: score.title }), { scope: "row" }),
      element("td", { textContent: text(score.base[index], score.decimals) }),
      element("td", { textContent: text(score.tuned[index], score.decimals) }),
      element("td", { textContent: signed(gain(score, index), score.decimals) }))));
    if (!dialog.open) dialog.showModal();
  }

  const step = by => { if (shown.length) open(shown[(opened + by + shown.length) % shown.length].index); };
  dialog.querySelector("[name=previous]").addEventListener("click", () => step(-1));
  dialog.querySelector("[name=next]").addEventListener("click", () => step(1));
  dialog.querySelector("[name=close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", event => {
    if (event.target.type === "range") return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  fill(form.elements.set, [["", "all"], ...data.sets.map(name => [name, name])]);
  fill(form.elements.domain, [["", "all"], ...data.domains.map(name => [name, name])]);
  fill(form.elements.score, data.scores.map(score => [score.name, score.title]));
  root.classList.toggle("no-truth", !truth);
  const initial = Object.fromEntries(KEYS.map(key => [key, form.elements[key].value]));
  form.addEventListener("input", change);
  form.addEventListener("reset", () => setTimeout(change));
  form.addEventListener("submit", event => event.preventDefault());
  addEventListener("hashchange", () => { restore(); show(); });
  more.addEventListener("click", () => { limit += 2 * PAGE; show(); });
  document.documentElement.classList.add("scripted");

  const progress = document.getElementById("progress");
  if (progress) {
    const strips = [...progress.querySelectorAll("figure")], label = progress.querySelector(".step");
    const range = label.querySelector("input");
    const turn = () => {
      strips.forEach((strip, place) => strip.classList.toggle("shown", place === Number(range.value)));
      label.querySelector("output").textContent = strips[range.value].dataset.step;
    };
    label.hidden = strips.length < 2;
    range.addEventListener("input", turn);
    turn();
  }

  for (const button of document.querySelectorAll(".copy")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.closest("details").querySelector("pre").textContent);
      button.textContent = "Copied";
    });
  }

  Promise.all(Object.entries(sheets).map(async ([set, sides]) => {
    images[set] = await Promise.all(sides.map(async sheet => {
      const image = new Image();
      image.src = sheet.source;
      await image.decode();
      return image;
    }));
  })).then(() => {
    root.hidden = false;
    restore();
    show();
    document.body.dataset.gallery = "ready";
  });
})();
