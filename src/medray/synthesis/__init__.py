"""Images that nobody took: invented label maps, a generator's images of them, and the gate before anybody trains on them."""
