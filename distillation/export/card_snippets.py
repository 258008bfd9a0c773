"""The model card's examples. A test runs them as they stand."""

from __future__ import annotations

OPEN_CLIP_SNIPPET = """\
import json
import open_clip
import torch
from PIL import Image, ImageOps

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:.")
tokenizer = open_clip.get_tokenizer("local-dir:.")
model.eval()
domain = json.load(open("labels.json", encoding="utf-8"))
with torch.inference_mode():
    photo = ImageOps.exif_transpose(Image.open("photo.jpg"))  # phones turn pictures by a note in the file
    image = model.encode_image(preprocess(photo).unsqueeze(0), normalize=True)
    means = [model.encode_text(tokenizer(prompts), normalize=True).mean(0) for prompts in domain["prompts"]]
    head = torch.nn.functional.normalize(torch.stack(means), dim=-1)
    probabilities = (model.logit_scale.exp() * image @ head.T).softmax(dim=-1)[0]
print(domain["labels"][int(probabilities.argmax())], float(probabilities.max()))
"""

ONNX_SNIPPET = """\
import json
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

labels = json.load(open("labels.json", encoding="utf-8"))["labels"]
cfg = json.load(open("preprocess.json", encoding="utf-8"))
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
side = min(image.size)
left, top = (image.width - side) // 2, (image.height - side) // 2
square = (left, top, left + side, top + side)
image = image.resize((cfg["size"], cfg["size"]), Image.Resampling[cfg["interpolation"].upper()], box=square)
pixels = (np.asarray(image, dtype=np.float32) / 255 - cfg["mean"]) / cfg["std"]
batch = pixels.transpose(2, 0, 1)[None].astype(np.float32)
session = onnxruntime.InferenceSession("classifier.onnx")
probabilities = session.run(None, {"image": batch})[0][0]
print(labels[int(probabilities.argmax())], float(probabilities.max()))
"""
