// Draws heat, `columns:base64` with a byte a cell, over a whole canvas.
const drawHeat = (() => {
  // Weights of a cubic B-spline at 0 <= t < 1 between its two middle cells: smooth, no overshoot.
  const spline = (t) => [(1 - t) ** 3 / 6, (3 * t ** 3 - 6 * t ** 2 + 4) / 6, (1 + 3 * t + 3 * t ** 2 - 3 * t ** 3) / 6, t ** 3 / 6];

  // Where each pixel of a side reads: four cells and their weights, edges repeated.
  const taps = (pixels, cells) =>
    Array.from({ length: pixels }, (_, pixel) => {
      const place = ((pixel + 0.5) * cells) / pixels - 0.5;
      const first = Math.floor(place);
      const at = [-1, 0, 1, 2].map((step) => Math.min(cells - 1, Math.max(0, first + step)));
      return { at, weights: spline(place - first) };
    });

  // From nothing over amber to nearly white: red, green, blue, opacity at 0, 1/3, 2/3 and 1.
  const ramp = [[110, 20, 80, 0], [214, 60, 50, 0.42], [250, 165, 40, 0.62], [255, 240, 190, 0.78]];
  const colour = (heat) => {
    const place = Math.min(0.9999, Math.max(0, heat)) * (ramp.length - 1);
    const [low, high] = [ramp[Math.floor(place)], ramp[Math.floor(place) + 1]];
    return low.map((value, i) => value + (high[i] - value) * (place % 1));
  };

  return (canvas, encoded) => {
    const [columns, bytes] = encoded.split(":");
    const cells = Uint8Array.from(atob(bytes), (character) => character.charCodeAt(0));
    const { width, height } = canvas;
    const across = taps(width, Number(columns));
    const down = taps(height, cells.length / columns);
    const image = new ImageData(width, height);
    const values = new Float32Array(width * height);
    let peak = 1e-6;
    down.forEach((row, y) => {
      // The rows are mixed once for all pixels of a line.
      const line = Array.from({ length: Number(columns) }, (_, x) =>
        row.at.reduce((sum, at, i) => sum + row.weights[i] * cells[at * columns + x], 0));
      across.forEach((column, x) => {
        const value = column.at.reduce((sum, at, i) => sum + column.weights[i] * line[at], 0);
        values[y * width + x] = value;
        peak = Math.max(peak, value);
      });
    });
    values.forEach((value, i) => {
      const [red, green, blue, opacity] = colour(value / peak);
      image.data.set([red, green, blue, opacity * 255], i * 4);
    });
    canvas.getContext("2d").putImageData(image, 0, 0);
  };
})();
