// The page on which people rate: asks the server for a question, shows it, sends the answer.
"use strict";

const $ = selector => document.querySelector(selector);
const PAIR = [["left", "a"], ["tie", "t"], ["right", "b"]];
const KEYS = {
  single: scale => `Keys: 1 to ${scale} rate, s skip, u undo, z zoom.`,
  pair: () => "Keys: a or ← the left one, b or → the right one, t or space a tie, s skip, u undo, z zoom.",
  grid: scale => `Keys: 1 to ${scale} rate the framed picture, ← and → move the frame, Enter sends, s skip, u undo, z zoom.`,
};

let rater = localStorage.getItem("rater") || "";
let question = null, values = [], current = 0, shownAt = 0, busy = false;

function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

async function call(action, body = {}) {
  if (busy) return;
  busy = true;
  document.body.classList.add("busy");
  try {
    const answer = await fetch(`/api/${action}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ rater, ...body }),
    });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    $("#fault").hidden = true;
    show(told);
  } catch (error) {
    const lost = error instanceof TypeError;  // fetch reached nobody
    fault(lost ? "The server does not answer, so this answer is not saved. Start it again with the same command, then answer again." : error.message);
    if (!question) askName();
  } finally {
    busy = false;
    document.body.classList.remove("busy");
  }
}

function fault(text) {
  $("#fault").textContent = text;
  $("#fault").hidden = false;
}

function askName() {
  $("#who").hidden = false;
  $("#rate").hidden = $("#done").hidden = true;
  $("#name").value = rater;
  $("#name").focus();
}

function show({ question: next, progress }) {
  $("#who").hidden = true;
  $("#rate").hidden = !next;
  $("#done").hidden = Boolean(next);
  const all = progress.answered + progress.left;
  $("#count").textContent = `${rater}: ${progress.answered} of ${all}`;
  $("#bar").value = all ? progress.answered / all : 1;
  $("#figures").textContent = figures(progress).join(" · ");
  $("#total").textContent = `${progress.answered} answers of ${rater}. ${figures(progress).join(", ")}`;
  question = next;
  if (!next) return;
  values = next.pictures.map(() => null);
  current = 0;
  $("#prompt").textContent = next.prompt;
  $("#help").textContent = KEYS[next.kind](next.scale);
  $("#pictures").className = next.kind;
  $("#pictures").replaceChildren(...next.pictures.map(picture));
  $("#answers").replaceChildren(...buttons(next));
  mark();
  shownAt = performance.now();
}

function figures(progress) {
  const told = [];
  if (progress.per_hour) told.push(`${progress.per_hour} an hour`);
  if (progress.repeats.of) told.push(`same again ${progress.repeats.right} of ${progress.repeats.of}`);
  if (progress.gold.of) told.push(`known answers ${progress.gold.right} of ${progress.gold.of}`);
  if (progress.raters > 1) told.push(`${progress.raters} raters`);
  if (progress.alpha !== null) told.push(`agreement (alpha) ${progress.alpha.toFixed(2)}`);
  return told;
}

function picture(name, index) {
  const figure = element("figure"), caption = element("figcaption");
  const sides = question.kind === "pair" ? ["left", "right"] : [];
  const image = element("img", "", { src: `/${name}`, alt: sides[index] ? `the picture on the ${sides[index]}` : `picture ${index + 1}` });
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 320));
  image.addEventListener("click", () => zoom(index));
  if (question.kind === "grid") caption.append(element("span", `${index + 1}`), element("span", "", { class: "given" }));
  figure.append(image, caption);
  if (question.kind === "grid") figure.addEventListener("click", () => { current = index; mark(); });
  return figure;
}

function buttons({ kind, scale }) {
  if (kind === "pair") {
    return PAIR.map(([value, key]) => {
      const button = element("button", value[0].toUpperCase() + value.slice(1), { type: "button", "data-value": value });
      button.append(element("kbd", key));
      button.addEventListener("click", () => send([value]));
      return button;
    });
  }
  const found = [];
  for (let rating = 1; rating <= scale; rating++) {
    const button = element("button", rating, { type: "button", "data-value": rating });
    if (rating === 1) button.append(element("small", "worst"));
    if (rating === scale) button.append(element("small", "best"));
    button.addEventListener("click", () => rate(rating));
    found.push(button);
  }
  if (kind === "grid") {
    const all = element("button", "Send", { type: "button", name: "send" });
    all.addEventListener("click", () => send(values));
    found.push(all);
  }
  return found;
}

function rate(rating) {
  values[current] = rating;
  if (question.kind === "single") return send(values);
  const open = values.findIndex(value => value === null);
  if (open >= 0) current = open;
  mark();
}

function mark() {
  if (!question || question.kind !== "grid") return;
  document.querySelectorAll("#pictures figure").forEach((figure, index) => {
    figure.classList.toggle("current", index === current);
    figure.querySelector(".given").textContent = values[index] ?? "";
  });
  $("#answers [name=send]").disabled = values.includes(null);
}

function send(chosen) {
  if (chosen.includes(null)) return;
  call("answer", { question: question.key, values: chosen, seconds: (performance.now() - shownAt) / 1000 });
}

function zoom(index = current) {
  const dialog = $("#zoomed"), source = document.querySelectorAll("#pictures img")[index];
  if (dialog.open) return dialog.close();
  const image = element("img", "", { src: source.src, alt: source.alt });
  const larger = Math.max(1, Math.ceil(512 / source.naturalWidth));  // small pictures pixel by pixel
  image.width = source.naturalWidth * larger;
  image.height = source.naturalHeight * larger;
  dialog.replaceChildren(image);
  dialog.showModal();
}

document.addEventListener("keydown", event => {
  if (!question || $("#rate").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase(), { kind, scale } = question;
  const inside = event.target instanceof HTMLButtonElement && (key === "enter" || key === " ");
  if (key === "z") zoom();
  else if ($("#zoomed").open || inside) return;
  else if (key === "u") call("undo");
  else if (key === "s") call("skip", { question: question.key });
  else if (kind !== "pair" && Number(key) >= 1 && Number(key) <= scale) rate(Number(key));
  else if (kind === "pair" && (key === "a" || key === "arrowleft")) send(["left"]);
  else if (kind === "pair" && (key === "b" || key === "arrowright")) send(["right"]);
  else if (kind === "pair" && (key === "t" || key === " ")) send(["tie"]);
  else if (kind === "grid" && key === "enter") send(values);
  else if (kind === "grid" && (key === "arrowright" || key === "arrowleft")) {
    current = (current + (key === "arrowright" ? 1 : values.length - 1)) % values.length;
    mark();
  } else return;
  event.preventDefault();
});

document.querySelectorAll("[name=undo]").forEach(b => b.addEventListener("click", () => call("undo")));
$("[name=skip]").addEventListener("click", () => call("skip", { question: question.key }));
$("[name=zoom]").addEventListener("click", () => zoom());
$("#zoomed").addEventListener("click", () => $("#zoomed").close());
$("#who").addEventListener("submit", event => {
  event.preventDefault();
  rater = $("#name").value.trim();
  localStorage.setItem("rater", rater);
  call("next");
});
askName();
