// Runs beside the page's own script: hands on the samples of the microphone as they come.
registerProcessor("recorder", class extends AudioWorkletProcessor {
  process(inputs) {
    const [channel] = inputs[0];
    if (channel) this.port.postMessage(channel.slice());
    return true;
  }
});
