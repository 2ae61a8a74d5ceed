/* The page: which image is shown, which keys and buttons do what, and what has been said. */

const of = id => document.getElementById(id);
const AHEAD = 8, BEHIND = 4, QUICK = 9;
/* Milliseconds on an image before its neighbours are asked for: who decides faster does not need them. */
const STAY = 400;

const embedded = of("data");
const token = new URLSearchParams(location.hash.slice(1)).get("token") || sessionStorage.getItem("diffad-review-token");
if (token) sessionStorage.setItem("diffad-review-token", token);
const source = embedded ? new FileSource(JSON.parse(embedded.textContent)) : new ServerSource(token || "");
const view = new View(of("stage"), of("mean"));
const pictures = new Map(), means = new Map(), words = new Map(), kinds = new Map();
const given = [];
let data, images = [], at = 0, saves;

async function begin() {
  history.replaceState(null, "", location.pathname);
  try {
    data = await source.data();
  } catch (error) {
    const advice = error.status === 401 ? " Open the address that `diffad-ray review` has printed." : "";
    return message("The images can't be listed: " + error.message + "." + advice);
  }
  images = data.images;
  document.title = "Review of " + data.table;
  document.querySelector("h1").textContent = document.title;
  of("reviewer").value = localStorage.getItem("diffad-review-reviewer") || data.reviewer;
  saves = new Saves(source, data.store, showState);
  saves.setClock(data.now);
  for (const kind of data.kinds) kinds.set(kind, 0);
  for (const [id, word] of Object.entries(data.words)) words.set(id, word);
  for (const save of saves.waiting()) if (save.reviewer === of("reviewer").value) note(save.image_id, save);
  of("hand-back").hidden = !embedded;
  showState();
  saves.send();
  const open = images.findIndex(image => !words.has(image.id));
  if (open < 0) return finish();
  show(open);
}

function note(id, word) {
  if (word && word.verdict) words.set(id, { verdict: word.verdict, kind: word.kind, note: word.note });
  else words.delete(id);
}

/* A picture, decoded, with its outlines; or the problem that there is with it. */
function loaded(image) {
  if (!pictures.has(image.id)) pictures.set(image.id, load(image));
  return pictures.get(image.id);
}

async function load(image) {
  try {
    const [url, outlines] = await Promise.all([source.picture(image, "view"), source.outlines(image)]);
    return { url, outlines, picture: await decoded(url, image.name) };
  } catch (error) {
    /* A server that is away comes back; an image that is gone does not. */
    if (error.status !== 404) pictures.delete(image.id);
    return { problem: error.status ? error.message : "The server does not answer.", again: error.status !== 404 };
  }
}

async function decoded(url, name) {
  const picture = new Image();
  picture.src = url;
  picture.alt = name;
  picture.draggable = false;
  await picture.decode();
  return picture;
}

function prefetch() {
  const near = new Set(images.slice(Math.max(0, at - BEHIND), at + AHEAD + 1).map(image => image.id));
  for (const [id, entry] of pictures) {
    if (near.has(id)) continue;
    pictures.delete(id);
    entry.then(one => one.url && source.release(one.url));
  }
  for (const image of images.slice(at, at + AHEAD + 1)) loaded(image);
}

async function show(place) {
  const begun = performance.now();
  at = place;
  const image = images[at];
  of("end").hidden = true;
  of("stage").dataset.image = "";
  describe(image);
  prefetch();
  const entry = await loaded(image);
  if (images[at] !== image) return;
  if (entry.again) {
    view.problem(entry.problem + " It is asked again.");
    return void setTimeout(() => images[at] === image && show(at), 500);
  }
  if (entry.problem) view.problem(entry.problem);
  else view.show(entry.picture, image, entry.outlines);
  of("stage").dataset.image = image.id;
  performance.measure("image shown", { start: begun });
  let isFull = false;
  view.enlarged = async () => {
    if (isFull || embedded || Math.max(image.width, image.height) <= data.view_side) return;
    isFull = true;
    const full = await decoded(await source.picture(image, "full"), image.name);
    const old = of("stage").querySelector("img");
    if (images[at] === image && old) old.replaceWith(full);
  };
  if (means.has(image.mean)) showMean(image);
  setTimeout(() => images[at] === image && surround(image), STAY);
}

/* What helps to judge comes after the image itself, and only where somebody stays with it. */
async function surround(image) {
  try {
    if (!means.has(image.mean)) {
      means.set(image.mean, source.mean(image));
      await showMean(image);
    }
    const around = await source.around(image);
    if (images[at] !== image) return;
    await strip(of("part"), around.part, null);
    await strip(of("neighbours"), around.neighbours, image);
  } catch (error) {
    console.info("Nothing is shown beside the image: " + error.message);
  }
}

async function showMean(image) {
  let url;
  try {
    url = await means.get(image.mean);
  } catch (error) {
    means.delete(image.mean);
    console.info("No mean of good images: " + error.message);
    return;
  }
  if (images[at] !== image || of("mean").dataset.of === image.mean) return;
  const box = document.createElement(url ? "div" : "p");
  if (url) {
    box.className = "canvas";
    box.append(await decoded(url, "mean of good images"));
  } else box.textContent = "None is at hand.";
  of("mean").dataset.of = image.mean;
  of("mean").replaceChildren(box);
  view.apply();
}

async function strip(place, others, now) {
  place.hidden = others.length === 0;
  const shown = others.map(image => ({ image, figure: document.createElement("figure") }));
  place.querySelector(".strip").replaceChildren(...shown.map(({ figure }) => figure));
  await Promise.all(shown.map(async ({ image, figure }) => {
    const caption = document.createElement("figcaption");
    const isBefore = now && (image.taken_at || "") + image.uri < (now.taken_at || "") + now.uri;
    caption.textContent = (now ? (isBefore ? "before " : "after ") : "") + image.name;
    caption.title = image.uri;
    const score = document.createElement("div");
    score.textContent = image.decision + " " + number(image.score);
    try {
      const url = await source.picture(image, "small");
      figure.append(await decoded(url, image.name));
      source.release(url);
    } catch (error) {
      caption.title += ": " + error.message;
    }
    figure.append(caption, score);
  }));
}

function number(value) {
  return value === null ? "–" : String(Number(value.toPrecision(4)));
}

function describe(image) {
  const word = words.get(image.id);
  /* Nothing of the image before may stay beside this one. */
  of("part").hidden = of("neighbours").hidden = true;
  if (of("mean").dataset.of !== image.mean) {
    of("mean").dataset.of = "";
    of("mean").replaceChildren();
  }
  of("name").textContent = image.name;
  of("verdict").className = word ? word.verdict : "pale";
  of("verdict").textContent = word ? "You said " + word.verdict + (word.kind ? ": " + word.kind : "") : "No verdict yet";
  of("kind").value = word?.kind || "";
  of("note").value = word?.note || "";
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.setAttribute("aria-pressed", String(word?.verdict === button.dataset.verdict));
  }
  const facts = {
    Decision: image.decision,
    Score: number(image.score) + ", threshold " + number(image.threshold),
    Tail: number(image.tail_probability),
    Detector: image.detector,
    Taken: image.taken_at,
    Size: image.width + " × " + image.height,
    Part: image.part,
    Image: image.uri,
  };
  const lines = Object.entries(facts).filter(([, text]) => text !== null).flatMap(([title, text]) => {
    const term = document.createElement("dt"), value = document.createElement("dd");
    term.textContent = title;
    value.textContent = text;
    return [term, value];
  });
  of("facts").replaceChildren(...lines);
}

function say(image, word) {
  saves.add({
    image_id: image.id,
    image_uri: image.uri,
    detector_fingerprint: image.fingerprint,
    verdict: word ? word.verdict : null,
    kind: word ? word.kind : null,
    note: word ? word.note : null,
    reviewer: of("reviewer").value.trim(),
    sample: data.sample,
  });
  note(image.id, word);
  showState();
}

/* A verdict counts for the image that is on the screen, never for one that is still on its way. */
function judge(verdict, kind = of("kind").value.trim()) {
  const image = images[at];
  if (!image || of("stage").dataset.image !== image.id || !of("end").hidden) return;
  given.push({ place: at, before: words.get(image.id) || null });
  if (verdict === "defect" && kind) kinds.set(kind, (kinds.get(kind) || 0) + 1);
  say(image, { verdict, kind: verdict === "defect" && kind ? kind : null, note: of("note").value.trim() || null });
  forward();
}

function forward() {
  const isOpen = image => !words.has(image.id);
  const later = images.findIndex((image, place) => place > at && isOpen(image));
  const open = later >= 0 ? later : images.findIndex(isOpen);
  if (open < 0) finish();
  else show(open);
}

function undo() {
  const last = given.pop();
  if (!last) return;
  say(images[last.place], last.before);
  show(last.place);
}

function step(by) {
  if (at + by >= 0 && at + by < images.length) show(at + by);
}

function message(text) {
  of("message").textContent = text;
  of("message").hidden = !text;
}

function showState() {
  const count = verdict => [...words.values()].filter(word => word.verdict === verdict).length;
  const said = images.filter(image => words.has(image.id)).length;
  const more = data.left_out ? "; " + data.left_out + " more are left out" : "";
  of("progress").textContent = said + " of " + images.length + " judged: " + count("defect") + " defects, "
    + count("good") + " good, " + count("unsure") + " unsure" + more;
  const waiting = saves.waiting().length;
  of("saved").className = waiting ? "waiting" : "pale";
  of("saved").textContent = embedded
    ? waiting + " verdicts are in this browser alone"
    : waiting ? waiting + " verdicts are kept here and not stored yet" : "All verdicts are stored";
  message(saves.problem);
  const used = [...kinds].sort((one, other) => other[1] - one[1]).map(([kind]) => kind);
  of("kinds").replaceChildren(...used.map(kind => new Option(kind)));
  of("quick").replaceChildren(...used.slice(0, QUICK).map((kind, place) => {
    const button = document.createElement("button"), key = document.createElement("kbd");
    button.type = "button";
    key.textContent = place + 1;
    button.append(kind + " ", key);
    button.addEventListener("click", () => judge("defect", kind));
    return button;
  }));
  if (!waiting && !of("end").hidden) finish();
}
