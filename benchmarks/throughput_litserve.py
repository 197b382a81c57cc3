"""The LitServe side of `serve_throughput.py`, in an environment of its own: PNG in, probabilities out.

``python throughput_litserve.py MODEL PORT WORKERS THREADS BATCH``: MODEL is the network as TorchScript.
"""

import sys
from typing import Any

import litserve
import torch
from fastapi import Request
from throughput_model import decoded, loaded, probabilities

MODEL, PORT, WORKERS, THREADS, BATCH = sys.argv[1:]
WAIT_S = 0.005
"""For which a batch waits to be filled."""


class Api(litserve.LitAPI):  # type: ignore[misc]
    """What LitServe calls."""

    def setup(self, device: str) -> None:
        """Load the network, in each worker."""
        self.network = loaded(MODEL, int(THREADS))

    def decode_request(self, request: Request) -> Any:
        """Read a request: LitServe hands its form over."""
        form: Any = request
        return decoded(form["image"].file.read())

    def batch(self, inputs: Any) -> Any:
        """Put images together."""
        return torch.stack(list(inputs))

    def predict(self, images: Any) -> Any:
        """Run the network."""
        return probabilities(self.network, images if images.dim() == 4 else images[None])

    def unbatch(self, output: Any) -> Any:
        """Take answers apart."""
        return output

    def encode_response(self, output: Any) -> Any:
        """Write an answer."""
        return {"probabilities": output if isinstance(output[0], float) else output[0]}


if __name__ == "__main__":
    together = {"max_batch_size": int(BATCH), "batch_timeout": WAIT_S} if int(BATCH) > 1 else {}
    server = litserve.LitServer(Api(**together), accelerator="cpu", workers_per_device=int(WORKERS))
    server.run(port=int(PORT), host="127.0.0.1", generate_client_file=False, log_level="error")
