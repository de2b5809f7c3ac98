"use strict";
// Prompts with their completions, side by side: filtered by step or arm and by reward, and searched.

const PAGE = 5; // number of prompts shown at once
const LONG = 700; // number of characters from which a text is folded

function showCompletions(data) {
  const section = byId("completions");
  const sources = [["training", "Training", data.training], ["answers", "Evaluation", data.answers]].filter(([, , found]) => found);
  if (!sources.length) {
    section.append(missing("There are no completions: neither ", code("rollouts.parquet"), " nor ", code("rollouts/"), " exists. ",
      code("RolloutTable"), " writes them after every step."));
    return;
  }
  const box = make("div", {});
  const open = (found) => box.replaceChildren(...browserOf(found));
  if (sources.length > 1) {
    section.append(make("fieldset", { class: "choice" }, make("legend", {}, "Completions of"),
      sources.map(([key, name, found], k) => make("label", {},
        make("input", { type: "radio", name: "source", value: key, checked: k === 0, onchange: () => open(found) }), make("span", {}, name)))));
  }
  section.append(box);
  open(sources[0][2]);
}

function browserOf({ rule, groups }) {
  const training = groups.some((group) => group.step !== undefined);
  const every = groups.flatMap((group) => group.completions);
  const places = training
    ? [...new Set(groups.map((group) => group.step))].map((step) => [String(step), `step ${whole(step)}`])
    : [...new Set(every.map((found) => found.arm))].map((arm) => [arm, arm]);
  const option = ([value, text]) => make("option", { value }, text);
  const place = make("select", { id: "place" }, option(["", training ? "all steps" : "all arms"]), places.map(option));
  const rewards = every.map((found) => found.reward).filter(isNumber);
  const bound = (id, value) => make("input", { type: "number", id, step: "any", inputmode: "decimal", placeholder: rewards.length ? short(value) : "" });
  const least = bound("least", d3.min(rewards)), most = bound("most", d3.max(rewards));
  const search = make("input", { type: "search", id: "search", placeholder: "words in prompts and completions", autocomplete: "off", spellcheck: "false" });
  const count = make("p", { class: "count", role: "status" });
  const list = make("div", { class: "groups" });
  const more = make("button", { type: "button", class: "more" }, "Show more");
  let found = [], shown = 0;

  const extend = () => {
    const next = found.slice(shown, shown + PAGE);
    const cards = next.map((item) => groupCard(item, search.value.trim()));
    list.append(...cards);
    shown += next.length;
    more.hidden = shown >= found.length;
    return cards[0];
  };
  const update = () => {
    const wanted = { place: place.value, training, least: least.valueAsNumber, most: most.valueAsNumber, words: search.value.trim().toLowerCase() };
    found = groups.flatMap((group) => {
      const completions = matching(group, wanted);
      return completions.length ? [{ group, completions }] : [];
    });
    const total = d3.sum(found, (item) => item.completions.length);
    count.textContent = `${whole(total)} of ${whole(every.length)} completions, of ${whole(found.length)} prompts`;
    list.replaceChildren();
    shown = 0;
    extend();
  };
  more.addEventListener("click", () => extend()?.focus());
  const field = (label, input) => make("div", { class: "field" }, make("label", { for: input.id }, label), input);
  const form = make("form", { class: "filters", role: "search", "aria-label": "Completions", onsubmit: (event) => event.preventDefault() },
    field(training ? "Step" : "Arm", place), field("Reward at least", least), field("at most", most), field("Search", search),
    make("button", { type: "button", onclick: () => { form.reset(); update(); } }, "Clear"));
  form.addEventListener("input", update);
  update();
  return [make("p", { class: "intro" }, `This section shows ${rule}. The other completions are in the run's folder.`), form, count, list, more];
}

/** A group's completions that match: the words may be in the prompt or in the completion. */
function matching(group, { place, training, least, most, words }) {
  if (training && place && String(group.step) !== place) return [];
  const inPrompt = !words || group.prompt.toLowerCase().includes(words);
  return group.completions.filter((found) =>
    (training || !place || found.arm === place)
    && (Number.isNaN(least) || (isNumber(found.reward) && found.reward >= least))
    && (Number.isNaN(most) || (isNumber(found.reward) && found.reward <= most))
    && (inPrompt || found.text.toLowerCase().includes(words)));
}

function groupCard({ group, completions }, words) {
  const total = group.num_completions ?? group.completions.length;
  const where = group.step === undefined ? group.benchmark : `step ${whole(group.step)}`;
  const rewards = group.completions.map((found) => found.reward).filter(isNumber);
  const mean = rewards.length ? `mean reward ${short(d3.mean(rewards))}` : "not scored";
  const few = completions.length < total ? `${completions.length} of ${total} completions` : `${total} completions`;
  return make("article", { class: "group", tabindex: -1, "aria-label": `Prompt, ${where}` },
    make("header", {},
      make("p", { class: "where" }, [where, few, mean].join(" \u00b7 ")),
      make("div", { class: "prompt" }, marked(group.prompt, words)),
      group.answer ? make("p", { class: "answer" }, "answer ", marked(group.answer, "")) : null),
    make("ol", { class: "answers" }, completions.map((found) => completionCard(found, words))));
}

function completionCard(found, words) {
  const text = make("div", { class: "text" }, marked(found.text, words));
  const long = found.text.length > LONG;
  const unfold = long ? make("button", { type: "button", class: "unfold", "aria-expanded": "false" }, "Show the whole text") : null;
  if (long) {
    text.classList.add("folded");
    unfold.addEventListener("click", () => {
      const folded = text.classList.toggle("folded");
      unfold.setAttribute("aria-expanded", String(!folded));
      unfold.textContent = folded ? "Show the whole text" : "Show less";
    });
  }
  return make("li", { class: "completion" },
    make("p", { class: "scores" },
      found.arm === undefined ? null : make("span", { class: "arm" }, found.arm),
      rewardBadge(found.reward),
      isNumber(found.advantage) ? make("span", {}, `advantage ${signed(found.advantage, decimal)}`) : null,
      Object.entries(found.parts ?? {}).map(([name, value]) => make("span", {}, `${name} ${isNumber(value) ? short(value) : "not scored"}`)),
      isNumber(found.tokens) ? make("span", {}, `${whole(found.tokens)} tokens`) : null,
      found.finished === false ? make("span", { class: "cut" }, "cut off") : null,
      found.guided ? make("span", { class: "cut" }, "with a hint") : null),
    text, unfold);
}

function rewardBadge(reward) {
  if (!isNumber(reward)) return make("span", { class: "reward none" }, "not scored");
  return make("span", { class: `reward ${reward > 0 ? "good" : "bad"}` }, `reward ${short(reward)}`);
}

/** Text in which the words of the search are marked. */
function marked(text, words) {
  const node = make("span", { dir: "auto" });
  const low = text.toLowerCase(), wanted = words.toLowerCase();
  let from = 0;
  // letters whose lower case has another length would shift the rest: then nothing is marked
  for (let at = wanted && low.length === text.length ? low.indexOf(wanted) : -1; at >= 0; at = low.indexOf(wanted, from)) {
    node.append(text.slice(from, at), make("mark", {}, text.slice(at, at + wanted.length)));
    from = at + wanted.length;
  }
  node.append(text.slice(from));
  return node;
}
