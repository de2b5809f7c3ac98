// Draws the tokens of an answer, each coloured by how far vectors moved it. `element`, `props`, `trigger` and `watch`
// are given by Gradio. All text becomes text nodes: nothing that a model writes is read as HTML.
const root = element.querySelector(".sl-tokens");
const LEAST = 1e-3, MOST = 3; // nats: no colour below, and the full colour above

function strength(kl) {
  return Math.min(1, Math.max(0, Math.log(kl / LEAST) / Math.log(MOST / LEAST)));
}

function told(token) {
  if (token.kl === null || token.base === null || token.steered === null) return "not finite";
  const percent = (logprob) => (100 * Math.exp(logprob)).toPrecision(3);
  return `moved by ${token.kl.toPrecision(3)} nats; probability ${percent(token.base)} % -> ${percent(token.steered)} %`;
}

function reach(index) {
  [...root.children].forEach((child, k) => { child.tabIndex = k === index ? 0 : -1; });
  root.children[index].focus();
}

function choose(index) {
  [...root.children].forEach((child, k) => child.setAttribute("aria-pressed", String(k === index)));
  reach(index);
  trigger("select", { index });
}

function drawn(token, index) {
  const button = document.createElement("span");
  button.setAttribute("role", "button");
  button.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-label", `token ${index + 1}: ${token.text}, ${told(token)}`);
  button.title = told(token);
  button.tabIndex = index ? -1 : 0;
  button.textContent = token.text.replaceAll("\n", "⏎\n") || "·";
  button.classList.toggle("sl-special", token.special);
  button.style.setProperty("--moved", token.kl === null ? 1 : strength(token.kl));
  button.addEventListener("click", () => choose(index));
  button.addEventListener("keydown", (event) => {
    const last = root.children.length - 1;
    const goals = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: last };
    const goal = goals[event.key];
    if (event.key === "Enter" || event.key === " ") choose(index);
    else if (goal === undefined) return;
    else reach(Math.min(last, Math.max(0, goal)));
    event.preventDefault();
  });
  return button;
}

function draw() {
  const tokens = (props.value && props.value.tokens) || [];
  root.replaceChildren(...tokens.map(drawn));
}

watch("value", draw);
draw();
