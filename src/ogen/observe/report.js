'use strict';
// Draws the report's plots: those in sight, in the colours of light or dark, and on paper.
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const root = document.documentElement;
  const colour = name => getComputedStyle(root).getPropertyValue('--' + name).trim();
  const series = at => colour('s' + (at % 7 + 1));
  const dashes = ['solid', 'dash', 'dot', 'dashdot'];
  const dash = at => dashes[Math.floor(at / 7) % 4];
  // plotly reads tags and entities in texts: a name has none
  const text = name => String(name).replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
  // plotly knows no time zones: it is given the fleet's local time as if it were UTC
  const when = seconds => new Date((seconds + data.offset) * 1000).toISOString().slice(0, 19).replace('T', ' ');
  const starts = Array.from({length: data.bins}, (_, at) => when(data.first + at * data.width));
  const range = [when(data.first), when(data.end)];

  function layout(more) {
    const made = {
      margin: {l: 52, r: 12, t: 12, b: 34}, hovermode: 'x unified', dragmode: 'zoom',
      paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
      font: {color: colour('ink'), size: 12, family: 'system-ui, sans-serif'},
      hoverlabel: {bgcolor: colour('paper'), bordercolor: colour('line'), font: {color: colour('ink')}},
      legend: {orientation: 'h', y: 1.02, yanchor: 'bottom', x: 0, font: {size: 11}},
      xaxis: xaxis(), yaxis: yaxis(), shapes: [], annotations: [],
    };
    return Object.assign(made, more);
  }
  const axis = more => Object.assign({gridcolor: colour('grid'), linecolor: colour('line'), zeroline: false,
    tickfont: {color: colour('soft'), size: 11}, fixedrange: false}, more);
  const xaxis = more => axis(Object.assign({type: 'date', range: range.slice(), hoverformat: '%d %b %H:%M', nticks: 7}, more));
  const yaxis = more => axis(Object.assign({rangemode: 'tozero'}, more));
  const unit = word => ({title: {text: word, standoff: 4, font: {size: 11}}});
  const line = (name, values, at, more) => Object.assign({type: 'scatter', mode: 'lines', name: text(name), x: starts,
    y: values, connectgaps: false, line: {color: series(at), width: 1.6, dash: dash(at)}}, more);
  // a value between two gaps is no line: it is drawn as a point
  const none = value => value === null || value === undefined;
  function points(trace) {
    const places = trace.mode === 'lines' ? trace.y.map((_, at) => at).filter(at => !none(trace.y[at]) && none(trace.y[at - 1]) && none(trace.y[at + 1])) : [];
    return places.length && !trace.stackgroup ? [{type: 'scatter', mode: 'markers', xaxis: trace.xaxis, yaxis: trace.yaxis, showlegend: false, hoverinfo: 'skip',
      cliponaxis: false, x: places.map(at => trace.x[at]), y: places.map(at => trace.y[at]), marker: {size: 6, color: trace.line.color}}] : [];
  }

  // what happened: a line through the plot with its words on hover, and grey where nothing was written
  function mark(made, host, xref, yref) {
    for (const [first, last] of host.gaps) {
      made.shapes.push({type: 'rect', xref, yref, x0: when(data.first + first * data.width),
        x1: when(data.first + (last + 1) * data.width), y0: 0, y1: 1, line: {width: 0}, fillcolor: colour('shade'), layer: 'below'});
    }
    for (const [at, words] of host.marks) {
      made.shapes.push({type: 'line', xref, yref, x0: when(at), x1: when(at), y0: 0, y1: 1,
        line: {color: colour(words.endsWith('down') ? 'bad-line' : 'soft'), width: 1, dash: 'dot'}});
      made.annotations.push({xref, yref, x: when(at), y: 0.98, yanchor: 'top', xanchor: 'left', showarrow: false, text: '▾',
        hovertext: text(words), font: {size: 11, color: colour(words.endsWith('down') ? 'bad-line' : 'soft')}});
    }
  }

  function vram(host, place) {
    const traces = [], made = layout({}), cards = host.cards, columns = cards.length > 1 && place.clientWidth > 640 ? 2 : 1;
    const rows = Math.ceil(cards.length / columns), wide = (1 - 0.06 * (columns - 1)) / columns, gap = rows > 1 ? 0.36 / rows : 0;
    const high = (1 - gap * (rows - 1)) / rows;
    cards.forEach((card, at) => {
      const n = at ? String(at + 1) : '', left = (at % columns) * (wide + 0.06), top = 1 - Math.floor(at / columns) * (high + gap);
      const on = {xaxis: 'x' + n, yaxis: 'y' + n, hovertemplate: '%{y:.1f} GiB'};
      const once = {showlegend: at === 0};
      traces.push(line('used, mean', card.used, 0, {...on, ...once, legendgroup: 'used', fill: 'tozeroy',
        fillcolor: colour('s1') + '33', line: {color: colour('s1'), width: 1.6}}));
      traces.push(line('used, most', card.most, 0, {...on, ...once, legendgroup: 'most', line: {color: colour('s1'), width: 1, dash: 'dot'}}));
      const level = (name, value, shown, look) => traces.push({type: 'scatter', mode: 'lines', name, x: range, y: [value, value],
        ...on, ...once, legendgroup: name, line: look, hoverinfo: 'skip', hovertemplate: null});
      if (card.planned !== null) level('planned', card.planned, 0, {color: colour('s2'), width: 1.6, dash: 'dash'});
      level('whole card', card.total, 0, {color: colour('soft'), width: 1.2});
      made['xaxis' + n] = xaxis({domain: [left, left + wide], anchor: 'y' + n, matches: at ? 'x' : undefined, nticks: columns > 1 ? 6 : 8});
      made['yaxis' + n] = yaxis({domain: [top - high, top], anchor: 'x' + n, range: [0, card.total * 1.08], ...unit('GiB')});
      made.annotations.push({xref: 'x' + n + ' domain', yref: 'y' + n + ' domain', x: 0, y: 1, yanchor: 'bottom', xanchor: 'left',
        showarrow: false, text: text(`card ${card.gpu} ${card.name}`), font: {size: 12}});
      mark(made, host, 'x' + n, 'y' + n + ' domain');
    });
    place.style.height = 60 + 190 * rows + 'px';
    made.margin.t = 56;
    made.legend.y = 1 + 26 / (190 * rows);
    return [traces, made];
  }

  function cards(host, key, word) {
    const made = layout({});
    Object.assign(made.yaxis, unit(word), key === 'busy' ? {range: [0, 103]} : {});
    mark(made, host, 'x', 'y domain');
    const traces = host.cards.map((card, at) => line('card ' + card.gpu, card[key], at, {hovertemplate: `%{y:.0f} ${word}`}));
    return [traces, {...made, showlegend: true}];
  }

  function map(key) {
    const share = (card, value) => value === null ? null : Math.round(1000 * value / card.total) / 10;
    const rows = data.hosts.map(host => starts.map((_, at) => {
      const found = host.cards.map(card => key === 'used' ? share(card, card.used[at]) : card.busy[at]).filter(v => v !== null);
      if (!found.length) return null;
      return key === 'used' ? Math.max(...found) : found.reduce((a, b) => a + b) / found.length;
    }));
    const names = data.hosts.map(host => text(host.name));
    const made = layout({hovermode: 'closest'});
    made.yaxis = axis({type: 'category', autorange: 'reversed', automargin: true, showgrid: false, dtick: 1,
      tickfont: {size: 10, color: colour('soft')}});
    made.xaxis.showgrid = false;
    return [[{type: 'heatmap', x: starts, y: names, z: rows, zmin: 0, zmax: 100, colorscale: 'Cividis', hoverongaps: false, ygap: 1,
      hovertemplate: '%{y} %{x|%d %b %H:%M}: %{z:.0f} %<extra></extra>', colorbar: {thickness: 10, ticksuffix: ' %', lenmode: 'pixels', len: 150, y: 1, yanchor: 'top', outlinewidth: 0}}], made];
  }

  const kinds = {good: ['answered', 0], client: ['refused (4xx)', 4], gone: ['client left', 5],
    own: ['failed in the balancer', 3], failed: ['failed in an instance', 1]};
  function rate(one) {
    const made = layout({showlegend: true});
    Object.assign(made.yaxis, unit('requests/s'));
    const seconds = at => Math.max(1, Math.min(data.end, data.first + (at + 1) * data.width) - data.first - at * data.width);
    const traces = Object.entries(kinds).filter(([kind]) => kind === 'good' || one.sums[kind]).map(([kind, [name, at]]) =>
      line(name, one.kinds[kind].map((count, bin) => count / seconds(bin)), at, {stackgroup: 'all', hovertemplate: '%{y:.3~f}/s',
        line: {color: series(at), width: 0}, fillcolor: series(at) + 'b0'}));
    return [traces, made];
  }
  const ticks = [-3, -2, -1, 0, 1, 2, 3, 4].flatMap(ten => [1, 2, 5].map(n => Number(`${n}e${ten}`)));
  function times(one, key) {
    const made = layout({showlegend: true});
    Object.assign(made.yaxis, {type: 'log', rangemode: 'normal', tickvals: ticks, ticktext: ticks.map(String), ...unit('seconds')});
    return [['p50', 'p95', 'p99'].map((name, at) => line(name, one[key][name], at, {hovertemplate: '%{y:.3~g} s',
      mode: 'lines', line: {color: series(at), width: 1.6, dash: dashes[at]}})), made];
  }
  function share(one) {
    const made = layout({showlegend: true});
    Object.assign(made.yaxis, unit('%'), {range: [0, 100]});
    // few requests have no shares: some bins together
    const step = Math.ceil(data.bins / 48), x = starts.filter((_, at) => at % step === 0);
    const coarse = one.by.map(by => x.map((_, at) => by.n.slice(at * step, (at + 1) * step).reduce((a, b) => a + b, 0)));
    const sums = x.map((_, at) => coarse.reduce((sum, counts) => sum + counts[at], 0));
    const ended = values => [...values, values[values.length - 1]];  // the last column ends with the span
    return [one.by.map((by, at) => line(by.name, ended(coarse[at].map((n, bin) => sums[bin] ? 100 * n / sums[bin] : null)), at,
      {x: [...x, range[1]], stackgroup: 'all', stackgaps: 'infer zero', hovertemplate: '%{y:.0f} %', line: {color: series(at), width: 0, shape: 'hv'}, fillcolor: series(at) + 'b0'})), made];
  }

  function figure(place) {
    const [kind, at, what] = place.dataset.plot.split(':');
    if (kind === 'map') return map(at);
    if (kind === 'host') {
      const host = data.hosts[at];
      return what === 'vram' ? vram(host, place) : cards(host, what, {busy: '%', hot: '°C', watts: 'W'}[what]);
    }
    const one = data.balancers[at];
    return what === 'rate' ? rate(one) : what === 'share' ? share(one) : times(one, what);
  }

  const config = {displayModeBar: false, responsive: true};
  function draw(place) {
    const [traces, made] = figure(place);
    Plotly.react(place, traces.concat(traces.flatMap(points)), made, config);
    place.dataset.drawn = 'yes';
  }
  const places = [...document.querySelectorAll('.plot')];
  const again = () => places.filter(place => place.dataset.drawn).forEach(draw);
  const shown = place => place.offsetParent !== null;
  const watcher = new IntersectionObserver(seen => seen.forEach(one => {
    if (one.isIntersecting && !one.target.dataset.drawn) draw(one.target);
  }), {rootMargin: '600px'});
  places.forEach(place => watcher.observe(place));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', again);
  addEventListener('beforeprint', () => { root.classList.add('paper'); places.filter(shown).forEach(draw); });
  addEventListener('afterprint', () => { root.classList.remove('paper'); again(); });
})();
