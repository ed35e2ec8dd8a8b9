const coarse = window.matchMedia('(pointer: coarse)').matches;
const places = [...document.querySelectorAll('.figure')];
function draw(place) {
  const style = getComputedStyle(document.documentElement), color = name => style.getPropertyValue(name).trim();
  const figure = FIGURES[place.dataset.name], layout = JSON.parse(JSON.stringify(figure.layout));
  layout.paper_bgcolor = layout.plot_bgcolor = 'rgba(0,0,0,0)';
  layout.font = {color: color('--text'), size: 13};
  layout.hoverlabel = {bgcolor: color('--panel'), bordercolor: color('--line'), font: {color: color('--text')}, namelength: -1};
  if (document.documentElement.classList.contains('paper')) layout.width = 660;  // what fits A4 and Letter
  layout.uirevision = true;  // a zoom stays when curves are switched
  layout.dragmode = coarse ? false : 'zoom';  // a finger scrolls the page
  for (const name of Object.keys(layout)) if (/^[xy]axis/.test(name)) {
    Object.assign(layout[name], {gridcolor: color('--line'), zerolinecolor: color('--line')});
    if (coarse) layout[name].fixedrange = true;
    if (name[0] === 'x' && place.clientWidth < 500) {  // a long title in several lines
      layout[name].title.text = layout[name].title.text.replace(/(?=.{31})(.{10,30}) /g, '$1<br>');
      layout.margin.r = 8;
    }
  }
  for (const trace of figure.data) if (trace.type === 'heatmap') trace.colorscale = [[0, color('--panel')], [1, color('--accent')]];
  Plotly.react(place, figure.data, layout, {responsive: true, displayModeBar: false});
}
function choice(parent, type, name, checked, text, act, sample) {
  const label = document.createElement('label'), input = document.createElement('input');
  Object.assign(input, {type, name, checked});
  input.addEventListener('change', () => act(input.checked));
  label.append(input);
  if (sample) label.insertAdjacentHTML('beforeend', '<svg width="22" height="6" aria-hidden="true"><line x2="22" y1="3" y2="3" stroke="'
    + sample[0] + '" stroke-width="2.5" stroke-dasharray="' + sample[1] + '"/></svg>');
  label.append(text);
  parent.append(label);
}
function group(place, kind, title) {
  const made = document.createElement('fieldset');
  made.className = 'controls ' + kind;
  made.setAttribute('aria-label', title);
  place.before(made);
  return made;
}
function controls(place) {  // in HTML, where a keyboard reaches them
  const figure = FIGURES[place.dataset.name], meta = figure.layout.meta || {}, off = new Set();
  const show = (kind, name) => on => {  // a trace's meta is its setting and its kind
    off[on ? 'delete' : 'add'](kind + name);
    for (const trace of figure.data) trace.visible = !trace.meta.some((each, kind) => off.has(kind + each));
    draw(place);
  };
  if (meta.axes) {
    const box = group(place, 'axes', 'Axes');
    meta.axes.forEach(([text, x, y], index) => choice(box, 'radio', place.dataset.name, !index, text, () => {
      Object.assign(figure.layout.xaxis, x);
      Object.assign(figure.layout.yaxis, y);
      Plotly.purge(place);  // it would go back to the limits of the other axes
      draw(place);
    }));
  }
  if (meta.kinds) {
    const kinds = group(place, 'kinds', 'Kinds of curves');
    for (const [name, dash] of meta.kinds) choice(kinds, 'checkbox', '', true, name, show(1, name), ['currentColor', dash]);
    const curves = group(place, 'curves', 'Curves');
    for (const [name, color] of meta.names) choice(curves, 'checkbox', '', true, name, show(0, name), [color, '']);
  }
}
function stops(figure) {  // what the arrow keys go through: the points, or all points of one epoch
  const found = new Map(), all = figure.layout.hovermode === 'x unified';
  const add = (key, hover, text) => found.set(key, {hover: [...(found.get(key)?.hover || []), hover], text: [...(found.get(key)?.text || []), text]});
  figure.data.forEach((trace, curveNumber) => {
    if (trace.hoverinfo === 'skip' || trace.visible === false) return;
    const xs = values(trace.x), ys = values(trace.y);
    if (trace.type === 'heatmap')
      ys.forEach((y, row) => xs.forEach((x, column) => found.set(row + ' ' + column, {
        hover: {xval: column, yval: row}, text: [`true ${y}, predicted ${x}: ${trace.text[row][column]}`]})));
    else xs.forEach((x, pointNumber) => add(all ? x : curveNumber + ' ' + pointNumber, {curveNumber, pointNumber},
      all ? `${trace.name}: ${ys[pointNumber].toPrecision(4)}` : trace.text[pointNumber]));
  });
  return all ? [...found].sort((a, b) => a[0] - b[0]).map(([x, stop]) => ({hover: stop.hover, text: ['epoch ' + x, ...stop.text]}))
    : [...found.values()];
}
function values(data) {  // Plotly's packed arrays
  if (!data || !data.bdata) return data ? [...data] : [];
  const types = {f8: Float64Array, f4: Float32Array, i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array};
  return [...new types[data.dtype](Uint8Array.from(atob(data.bdata), each => each.charCodeAt(0)).buffer)];
}
function keys(place) {
  const said = document.createElement('p');
  said.className = 'muted said';
  said.setAttribute('aria-live', 'polite');
  place.after(said);
  let at = -1;
  place.addEventListener('keydown', event => {
    const all = stops(FIGURES[place.dataset.name]);
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageDown: 10, PageUp: -10}[event.key];
    if (event.key === 'Escape') { Plotly.Fx.unhover(place); said.textContent = ''; return; }
    if (event.key === 'Home') at = 0; else if (event.key === 'End') at = all.length - 1; else if (step) at += step; else return;
    event.preventDefault();
    at = Math.max(0, Math.min(at, all.length - 1));
    Plotly.Fx.hover(place, all[at].hover);
    said.textContent = all[at].text.join('; ');
  });
}
for (const place of places) { controls(place); draw(place); keys(place); }
const redraw = () => places.forEach(draw);
window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
for (const [name, paper] of [['beforeprint', true], ['afterprint', false]]) window.addEventListener(name, () => {
  document.documentElement.classList.toggle('paper', paper);  // paper is light
  redraw();
});
