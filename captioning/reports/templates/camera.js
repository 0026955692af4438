// A camera for a page with these elements: #open-camera, the dialog #camera, #viewfinder, #shoot and
// #close-camera. `take` is given the picture as a blob of the `format`, `refused` why there is none.

function useCamera({ format, take, refused }) {
  const find = (selector) => document.querySelector(selector);
  const dialog = find("#camera");
  const viewfinder = find("#viewfinder");
  find("#open-camera").hidden = !navigator.mediaDevices?.getUserMedia;
  find("#open-camera").onclick = async () => {
    try {
      viewfinder.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      dialog.showModal();
    } catch (error) {
      refused(error);
    }
  };
  find("#close-camera").onclick = () => dialog.close();
  dialog.onclose = () => {
    viewfinder.srcObject?.getTracks().forEach((track) => track.stop());
    viewfinder.srcObject = null;
  };
  find("#shoot").onclick = async () => {
    if (!viewfinder.videoWidth) return;  // nothing is seen yet
    const shot = new OffscreenCanvas(viewfinder.videoWidth, viewfinder.videoHeight);
    shot.getContext("2d").drawImage(viewfinder, 0, 0);
    const blob = await shot.convertToBlob(format);
    dialog.close();
    take(blob);
  };
}
