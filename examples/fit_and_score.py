"""Fit two methods at one stage of the bundled ViT, score them on images neither has seen, print a frame."""

import pandas as pd

import invsuite

model = invsuite.load_model("bundled:vit")
fit_images = invsuite.open_images("scenes", size=model.image_size, seed=11, count=200)
score_images = invsuite.open_images("scenes", size=model.image_size, seed=13, count=8)

frames = []
for method in ("mean", "ridge"):
    fitted = invsuite.fit(method, model, ["block03"], fit_images)
    frames.append(invsuite.score(fitted, score_images, metrics=["psnr", "ssim"]).to_frame())
print(pd.concat(frames)[["method", "stage", "measure", "mean", "low", "high", "n"]].to_string(index=False))
