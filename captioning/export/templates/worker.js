// Captions apart from the page, so that the page stays quick: a picture in, captions out.

import { Captioner } from "./captioner.js";

const loading = Captioner.load(self.location, (progress) => self.postMessage({ kind: "progress", ...progress }));
loading.then(
  ({ settings }) => self.postMessage({ kind: "ready", beams: settings.search.beam_size }),
  (error) => self.postMessage({ kind: "failed", message: String(error.message || error) }),
);
let last = loading;  // pictures are captioned one after another

self.onmessage = ({ data: { number, picture, beams, count } }) => {
  last = last.catch(() => {}).then(() => answer(number, picture, beams, count));
};

async function answer(number, picture, beams, count) {
  try {
    const captioner = await loading;
    const started = performance.now();
    const asStored = { imageOrientation: "from-image", premultiplyAlpha: "none", colorSpaceConversion: "none" };
    const bitmap = await createImageBitmap(picture, asStored);
    const captions = await captioner.caption(bitmap, beams, count);
    bitmap.close();
    self.postMessage({ kind: "captions", number, captions, seconds: (performance.now() - started) / 1000 });
  } catch (error) {
    self.postMessage({ kind: "problem", number, message: String(error.message || error) });
  }
}
