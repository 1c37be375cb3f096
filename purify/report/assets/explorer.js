/* The results explorer: looks up what the reader picks in the data beside it, and shows it.
   Every number, and which ρ the protocol chooses at each ΔACC, comes from purify/report/explorer.py. */
(() => {
  "use strict";
  const root = document.getElementById("explorer");
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const form = root.querySelector("form");
  const pick = form.elements;
  const canvas = root.querySelector("canvas");
  const [RESERVE, VALIDATION, ACC, ACC_LOW, ACC_HIGH, ASR, ASR_LOW, ASR_HIGH] = [0, 1, 2, 3, 4, 5, 6, 7];

  const suspect = (seed) => data.suspects[[pick.task.value, pick.attack.value, pick.clean.value, seed].join("|")];
  const byDrop = () => pick.by.value === "drop";
  const drop = () => data.drops[pick.drop.value];
  const reserve = () => data.reserves[pick.reserve.value];

  /* What a method has to show: {point, met}; nothing where it was not run, or not with the ρ that was set. */
  function shown(method) {
    if (!method) return null;
    const [choice, within, points] = method;
    if (byDrop()) return { point: points[parseInt(choice[pick.drop.value], 36)], met: pick.drop.value >= within };
    const point = points.find((one) => one[RESERVE] === null || one[RESERVE] === reserve());
    return point ? { point, met: true } : null;
  }

  const percent = (value) => value.toFixed(1);
  const scored = (point, score) => `${percent(point[score])} [${percent(point[score + 1])},\u00a0${percent(point[score + 2])}]`;
  const ratio = (point) => (point[RESERVE] === null ? "" : String(point[RESERVE]));

  function fill(body, rows) {
    body.replaceChildren(
      ...rows.map(([name, ...cells]) => {
        const row = document.createElement("tr");
        const head = document.createElement("th");
        head.scope = "row";
        head.textContent = name;
        row.append(head, ...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
        return row;
      }),
    );
  }
  const cells = (name, point, note = "") => [
    name, ratio(point) + note, scored(point, ACC), scored(point, ASR), percent(point[VALIDATION]),
  ];

  function tell(found, chosen) {
    const named = `${pick.task.value}, ${pick.attack.value}, ${pick.clean.value} clean examples, seed ${pick.seed.value}`;
    const status = root.querySelector("[role=status]");
    const note = root.querySelector(".note");
    if (!found) {
      status.textContent = `There are no records of ${named}: these runs are described by the grid, and were not made.`;
      note.textContent = "";
      return;
    }
    const of = chosen.length;
    status.textContent = byDrop()
      ? `${named}, ΔACC ≤ ${drop()}: ${chosen.filter((one) => one.shown?.met).length} of ${of} defenses stay within it.`
      : `${named}, ρ = ${reserve()}: ${chosen.filter((one) => one.shown).length} of ${of} defenses were run with it, or have none.`;
    const [validation, acc, asr] = found.rows;
    note.textContent =
      `In percent, with 95 % intervals over ${acc} test rows (ACC) and ${asr} (ASR); ` +
      `validation: ${validation} clean rows, which choose ρ.`;
  }

  function tables(found, chosen) {
    const references = found ? found.references.map((point, k) => [data.references[k].name, point]) : [];
    const rows = references.filter(([, point]) => point).map(([name, point]) => cells(name, point));
    const own = chosen.map(({ look, shown: one }) =>
      one ? cells(look.name, one.point, one.met ? "" : " (ΔACC not met)") : [look.name, "not run", "", "", ""],
    );
    fill(root.querySelector("#explorer-numbers tbody"), [...rows, ...own]);
    const every = chosen.flatMap(({ look, method }) => (method ? method[2].map((point) => cells(look.name, point)) : []));
    fill(root.querySelector(".every tbody"), every);
  }

  const at = (point) => ({ x: point[ACC], y: point[ASR], reserve: point[RESERVE] });
  const gap = { x: NaN, y: NaN };
  const cross = (point) => [
    { x: point[ACC_LOW], y: point[ASR] }, { x: point[ACC_HIGH], y: point[ASR] }, gap,
    { x: point[ACC], y: point[ASR_LOW] }, { x: point[ACC], y: point[ASR_HIGH] },
  ];

  function drawn(found, chosen, ink) {
    const hue = (look) => (ink.dark ? look.dark : look.light);
    const shape = (look, radius) => ({ pointStyle: look.style, rotation: look.rotation, pointRadius: radius });
    const references = data.references.map((look, k) => ({
      label: look.name, ...shape(look, 8), borderWidth: 2.5, borderColor: hue(look), backgroundColor: hue(look),
      data: found?.references[k] ? [at(found.references[k])] : [],
    }));
    const methods = chosen.flatMap(({ look, method, shown: one }) => [
      { label: `${look.name}, chosen`, ...shape(look, 10), borderWidth: 2.5, borderColor: ink.text,
        backgroundColor: hue(look), data: one ? [at(one.point)] : [] },
      { label: `${look.name}, interval`, showLine: true, pointRadius: 0, pointHitRadius: 0, borderWidth: 1.5,
        borderColor: ink.text, data: one ? cross(one.point) : [] },
      { label: look.name, showLine: true, ...shape(look, 5), borderWidth: 2, borderColor: hue(look),
        backgroundColor: hue(look), pointBorderColor: ink.text, pointBorderWidth: 0.75,
        data: method ? method[2].map(at) : [] },
    ]);
    return [...references, ...methods];
  }

  function inks() {
    const style = getComputedStyle(document.documentElement);
    const of = (name, other) => style.getPropertyValue(name).trim() || other;
    return {
      dark: document.documentElement.dataset.theme === "dark",
      text: of("--pst-color-text-base", "#222"), line: of("--pst-color-border", "#ccc"),
    };
  }

  /* The accuracies of all settings of a suspect, so that its axis stays while defenses and sliders move. */
  function range(found) {
    const all = found ? [...found.references, ...found.methods.flatMap((method) => method?.[2] ?? [])] : [];
    const values = all.filter(Boolean).flatMap((point) => [point[ACC_LOW], point[ACC_HIGH]]);
    return values.length ? [5 * Math.floor(Math.min(...values) / 5), 5 * Math.ceil(Math.max(...values) / 5)] : [0, 100];
  }

  const axis = (text) => ({ type: "linear", title: { display: true, text }, ticks: {}, grid: {}, border: {} });
  const chart = new Chart(canvas, {
    type: "scatter",
    data: { datasets: [] },
    options: {
      maintainAspectRatio: false,
      animation: matchMedia("(prefers-reduced-motion: reduce)").matches ? false : { duration: 250 },
      scales: { x: axis("clean accuracy, ACC (%)"), y: { ...axis("attack success rate, ASR (%)"), min: 0, max: 100 } },
      layout: { padding: { top: 12 } },
      clip: 12,
      plugins: {
        legend: { display: false },
        tooltip: {
          filter: (item) => !item.dataset.label.endsWith("interval"),
          callbacks: {
            label: ({ dataset, raw }) =>
              `${dataset.label}${raw.reserve === null ? "" : `, ρ = ${raw.reserve}`}: ` +
              `ACC ${percent(raw.x)}, ASR ${percent(raw.y)}`,
          },
        },
      },
    },
  });

  function draw(found, chosen) {
    const ink = inks();
    for (const one of Object.values(chart.options.scales)) {
      one.title.color = one.ticks.color = ink.text;
      one.grid.color = one.border.color = ink.line;
    }
    [chart.options.scales.x.min, chart.options.scales.x.max] = range(found);
    chart.data.datasets = drawn(found, chosen, ink);
    chart.update();
    canvas.setAttribute(
      "aria-label",
      "Attack success rate against clean accuracy: for each defense a line through every ρ that was tried, " +
        "and a large marker with its intervals at the one that is chosen. The table below has the numbers.",
    );
  }

  function show() {
    for (const option of pick.seed.options) {
      option.textContent = option.value + (suspect(option.value) ? "" : " (no records)");
    }
    pick.dropped.value = drop();
    pick.reserved.value = reserve();
    pick.drop.setAttribute("aria-valuetext", `${drop()} points`);
    pick.reserve.setAttribute("aria-valuetext", String(reserve()));
    const found = suspect(pick.seed.value);
    const ticked = [...form.querySelectorAll("[name=defense]")].filter((box) => box.checked).map((box) => Number(box.value));
    const chosen = ticked.map((k) => {
      const method = found?.methods[k];
      return { look: data.methods[k], method, shown: shown(method) };
    });
    tell(found, chosen);
    tables(found, found ? chosen : []);
    draw(found, chosen);
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", ({ target }) => {
    if (target.type === "range") pick.by.value = target.name;
    show();
  });
  new MutationObserver(show).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  show();
})();
