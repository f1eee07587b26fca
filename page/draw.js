// Pictures of sounds: each is a canvas that follows its place's width and the page's colours.
const colour = (name) => getComputedStyle(element).getPropertyValue(name).trim() || "#888";

function canvas(height, label, paint) {
  const made = make("canvas", { role: "img", "aria-label": label, style: `height: ${height}px` });
  const draw = () => {
    const width = made.clientWidth;
    if (!width) return;
    const ratio = window.devicePixelRatio || 1;
    made.width = width * ratio;
    made.height = height * ratio;
    const pen = made.getContext("2d");
    pen.scale(ratio, ratio);
    paint(pen, width, height);
  };
  new ResizeObserver(draw).observe(made);
  new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  return made;
}

function waveform([low, high], label) {
  return canvas(64, label, (pen, width, height) => {
    const peak = Math.max(0.01, ...high.map(Math.abs), ...low.map(Math.abs));
    const step = width / low.length;
    const y = (value) => (height / 2) * (1 - (0.95 * value) / peak);
    pen.fillStyle = colour("--page-accent");
    low.forEach((value, i) => pen.fillRect(i * step, y(high[i]), Math.max(step, 0.7), Math.max(0.8, y(value) - y(high[i]))));
  });
}

// From nearly black over violet and orange to pale yellow.
const heat = [[13, 8, 35], [84, 15, 109], [187, 55, 84], [249, 142, 9], [252, 255, 164]];
function heatOf(value) {
  const place = (value / 255) * (heat.length - 1);
  const [from, to] = [heat[Math.floor(place)], heat[Math.min(heat.length - 1, Math.floor(place) + 1)]];
  return from.map((one, i) => one + (to[i] - one) * (place % 1));
}

function spectrogram({ bands, columns, data }, label) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const picture = new ImageData(columns, bands);
  for (let band = 0; band < bands; band += 1) {
    for (let column = 0; column < columns; column += 1) {
      const [red, green, blue] = heatOf(bytes[band * columns + column]);
      picture.data.set([red, green, blue, 255], 4 * ((bands - 1 - band) * columns + column));
    }
  }
  const own = document.createElement("canvas");
  own.width = columns;
  own.height = bands;
  own.getContext("2d").putImageData(picture, 0, 0);
  return canvas(112, label, (pen, width, height) => pen.drawImage(own, 0, 0, width, height));
}

// A curve with its scale; where there is no value, there is a gap. A logarithmic one is of pitch.
function curve(values, low, high, marks, isLog, label) {
  return canvas(72, label, (pen, width, height) => {
    const scale = isLog ? Math.log : (value) => value;
    const y = (value) => 5 + (height - 10) * (1 - (scale(Math.min(high, Math.max(low, value))) - scale(low)) / (scale(high) - scale(low)));
    pen.font = "11px system-ui, sans-serif";
    for (const mark of marks) {
      pen.fillStyle = colour("--border-color-primary");
      pen.fillRect(0, y(mark), width, 1);
    }
    pen.strokeStyle = pen.fillStyle = colour("--page-accent");
    pen.lineWidth = 1.8;
    pen.beginPath();
    let before = null;
    values.forEach((value, i) => {
      const x = (i / Math.max(1, values.length - 1)) * width;
      if (value !== null) pen[before === null ? "moveTo" : "lineTo"](x, y(value));
      before = value;
    });
    pen.stroke();
    // The scale is read through the curve: each number has a rim of the place's own colour.
    pen.strokeStyle = colour("--block-background-fill");
    pen.fillStyle = colour("--note");
    pen.lineWidth = 3.5;
    for (const mark of marks) {
      pen.strokeText(mark, 2, y(mark) - 2);
      pen.fillText(mark, 2, y(mark) - 2);
    }
  });
}

// A bar for each frame, and a line at the time that speech leaves for one.
function bars(values, limit, label) {
  return canvas(72, label, (pen, width, height) => {
    const most = Math.max(limit * 1.2, ...values);
    const step = width / values.length;
    values.forEach((value, i) => {
      pen.fillStyle = colour(value > limit ? "--page-warm" : "--page-accent");
      const size = Math.max(1, (value / most) * height);
      pen.fillRect(i * step, height - size, Math.max(1, step - (step > 4 ? 1 : 0)), size);
    });
    pen.fillStyle = colour("--body-text-color");
    pen.fillRect(0, height * (1 - limit / most), width, 1);
  });
}
