/* An image with its outlines, which can be enlarged and moved. The mean image moves with it. */

class View {
  constructor(stage, mean) {
    this.stage = stage;
    this.mean = mean;
    this.pointers = new Map();
    this.enlarged = () => {};
    this.reset();
    stage.addEventListener("wheel", event => {
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 1.25 : 0.8, event.clientX, event.clientY);
    }, { passive: false });
    stage.addEventListener("dblclick", event => {
      if (this.scale > 1) this.reset();
      else this.zoom(3, event.clientX, event.clientY);
    });
    stage.addEventListener("pointerdown", event => {
      stage.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    stage.addEventListener("pointermove", event => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      stage.addEventListener(name, event => this.pointers.delete(event.pointerId));
    }
  }

  /* Show a picture, which is decoded already, with outlines in pixels of the original. */
  show(picture, image, outlines) {
    const canvas = document.createElement("div");
    canvas.className = "canvas";
    canvas.append(picture, drawn(image, outlines));
    this.stage.replaceChildren(canvas);
    this.reset();
  }

  problem(text) {
    const line = document.createElement("p");
    line.className = "problem";
    line.textContent = text;
    this.stage.replaceChildren(line);
  }

  reset() {
    this.scale = 1;
    this.x = this.y = 0;
    this.apply();
  }

  /* Enlarge around a point of the screen; without one, around the middle. */
  zoom(factor, clientX, clientY) {
    const box = this.stage.getBoundingClientRect();
    const [x, y] = clientX === undefined ? [0.5, 0.5] : [(clientX - box.left) / box.width, (clientY - box.top) / box.height];
    const scale = Math.min(24, Math.max(1, this.scale * factor));
    this.x = x - (x - this.x) * (scale / this.scale);
    this.y = y - (y - this.y) * (scale / this.scale);
    this.scale = scale;
    this.apply();
    if (scale > 1.5) this.enlarged();
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const box = this.stage.getBoundingClientRect();
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (others.length) {
      const [x, y] = others[0];
      const distance = place => Math.hypot(place[0] - x, place[1] - y);
      const was = distance(before);
      if (was > 0) this.zoom(distance([event.clientX, event.clientY]) / was, x, y);
    } else if (this.scale > 1) {
      this.x += (event.clientX - before[0]) / box.width;
      this.y += (event.clientY - before[1]) / box.height;
      this.apply();
    }
  }

  apply() {
    this.x = Math.min(0, Math.max(1 - this.scale, this.x));
    this.y = Math.min(0, Math.max(1 - this.scale, this.y));
    const moved = "translate(" + 100 * this.x + "%, " + 100 * this.y + "%) scale(" + this.scale + ")";
    for (const canvas of [this.stage.querySelector(".canvas"), this.mean.querySelector(".canvas")]) {
      if (!canvas) continue;
      canvas.style.transform = moved;
      canvas.classList.toggle("enlarged", this.scale > 4);
    }
    this.stage.classList.toggle("enlarged", this.scale > 1);
  }
}

function drawn(image, outlines) {
  const svg = element("svg", { viewBox: "0 0 " + image.width + " " + image.height });
  for (const region of outlines) {
    const [x, y, width, height] = region.box;
    const title = element("title", {});
    title.textContent = "peak " + region.peak;
    const box = element("rect", { x, y, width, height });
    box.append(title);
    svg.append(box, element("path", { d: region.path }));
  }
  return svg;
}

function element(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
