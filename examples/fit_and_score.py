"""Fit ridge regression at two stages of the bundled ViT, score it on images it has not seen, print a frame."""

import invsuite

data = invsuite.load_suite("quick").data
inverse = invsuite.fit("ridge", "bundled:vit", ["block03", "block06"], data.fit, select=data.select)
results = invsuite.score(inverse, data.score, metrics=["psnr", "ssim", "correspondence"])

frame = results.to_frame()
print(frame[["model", "stage", "method", "measure", "mean", "low", "high", "n"]].to_string(index=False))
