// Draws what could stand at a place, and what each layer does there. `element`, `props` and `watch` are given by Gradio.
// All text becomes text nodes: nothing that a model writes is read as HTML.
const root = element.querySelector(".sl-place");

function made(name, text, className) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function bar(share, className) {
  const node = made("span", undefined, `sl-bar ${className}`);
  node.style.setProperty("--share", Math.min(1, Math.max(0, share)));
  return node;
}

function number(value, unit = "") {
  if (value === null) return "not finite";
  return `${Math.abs(value) < 1e-4 && value !== 0 ? value.toExponential(1) : value.toPrecision(3)}${unit}`;
}

function cell(text, share, className) {
  const node = made("td", undefined, "sl-number");
  node.append(made("span", text), bar(share, className));
  return node;
}

function table(caption, heads, rows) {
  const node = made("table"), head = made("tr"), body = made("tbody");
  node.append(made("caption", caption));
  heads.forEach((text) => { const th = made("th", text); th.scope = "col"; head.append(th); });
  const top = made("thead");
  top.append(head);
  body.append(...rows);
  node.append(top, body);
  return node;
}

function choices(value) {
  const rows = value.choices.map((choice) => {
    const row = made("tr", undefined, choice.is_drawn ? "sl-drawn" : "");
    const name = made("th", undefined);
    name.scope = "row";
    name.append(made("code", JSON.stringify(choice.text)), choice.is_drawn ? " ← drawn" : "");
    const shares = [[choice.base, "sl-base"], [choice.steered, "sl-steered"]];
    row.append(name, ...shares.map(([p, of]) => cell(number(p === null ? p : 100 * p, " %"), p, of)));
    return row;
  });
  return table(`Token ${value.index + 1}: what could stand here`, ["token", "base", "steered"], rows);
}

function layers(value) {
  const most = Math.max(...value.layers.map((x) => x.kl), 1e-9);
  const rows = value.layers.map((layer) => {
    const row = made("tr"), name = made("th", `layer ${layer.layer}`);
    name.scope = "row";
    const gain = `${layer.gain > 0 ? "+" : ""}${number(layer.gain)}`;
    row.append(name, cell(number(layer.kl), layer.kl / most, "sl-steered"), made("td", gain, "sl-number"));
    return row;
  });
  const heads = ["left out", "distribution moves, nats", "log-probability it gave the token, nats"];
  const rest = value.num_left ? ` (${value.num_left} layers to go)` : "";
  return table(`What each layer does here${rest}`, heads, rows);
}

function draw() {
  const value = props.value;
  root.replaceChildren();
  if (!value || !value.choices) return;
  root.append(choices(value));
  if (value.layers.length) root.append(layers(value));
}

watch("value", draw);
draw();
