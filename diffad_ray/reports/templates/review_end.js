/* The end of a review, keys and buttons. */

async function finish() {
  const end = of("end");
  end.hidden = false;
  const lines = ["All " + images.length + " images have a verdict."];
  if (images.length === 0) lines[0] = "There is no image to review.";
  if (embedded) lines.push("Save the verdicts as a file, and hand it back: `diffad-ray review TABLE --import FILE`.");
  end.replaceChildren(...lines.map(paragraph));
  if (embedded || !data.sample || saves.waiting().length) return;
  try {
    const found = await source.estimate();
    end.replaceChildren(...[...lines, ...found.lines].map(paragraph));
  } catch (error) {
    end.append(paragraph("No estimate: " + error.message));
  }
}

function paragraph(text) {
  const line = document.createElement("p");
  line.textContent = text;
  return line;
}

function handBack() {
  const text = JSON.stringify(saves.document(data), null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "verdicts.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function toggleOutlines() {
  const isHidden = of("stage").classList.toggle("hides-outlines");
  of("outline").setAttribute("aria-pressed", String(!isHidden));
}

const KEYS = {
  d: () => judge("defect"),
  g: () => judge("good"),
  u: () => judge("unsure"),
  z: undo,
  n: () => step(1),
  ArrowRight: () => step(1),
  ArrowLeft: () => step(-1),
  k: () => of("kind").focus(),
  o: toggleOutlines,
  "+": () => view.zoom(2),
  "-": () => view.zoom(0.5),
  0: () => view.reset(),
};

document.addEventListener("keydown", event => {
  const isTyping = event.target.tagName === "INPUT";
  if (isTyping && (event.key === "Enter" || event.key === "Escape")) {
    event.preventDefault();
    event.target.blur();
    if (event.key === "Enter" && event.target.id === "kind") judge("defect");
    return;
  }
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !data) return;
  const quick = /^[1-9]$/.test(event.key) ? of("quick").children[event.key - 1] : null;
  const action = quick ? () => quick.click() : KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

for (const button of document.querySelectorAll("[data-verdict]")) {
  button.addEventListener("click", () => judge(button.dataset.verdict));
}
of("undo").addEventListener("click", undo);
of("next").addEventListener("click", () => step(1));
of("previous").addEventListener("click", () => step(-1));
of("outline").addEventListener("click", toggleOutlines);
of("enlarge").addEventListener("click", () => (view.scale > 1 ? view.reset() : view.zoom(3)));
of("hand-back").addEventListener("click", handBack);
of("reviewer").addEventListener("change", () => {
  const name = of("reviewer").value.trim();
  of("reviewer").value = name || data.reviewer;
  localStorage.setItem("diffad-review-reviewer", of("reviewer").value);
});

begin();
