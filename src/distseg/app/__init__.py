"""The web page on which an exported model is tried (Gradio): upload an image, see what the model says of it."""
