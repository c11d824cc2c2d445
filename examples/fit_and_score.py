"""Fit ridge regression at one stage of the bundled ViT, score it on images it has not seen, print a frame."""

import invsuite

suite = invsuite.load_suite("quick")
model = invsuite.load_model("vit", "bundled:vit")
fit_images = invsuite.open_images(suite.data.fit, model.image_size)
score_images = invsuite.open_images(suite.data.score, model.image_size)

fitted = invsuite.fit("ridge", model, ["block03"], fit_images)
results = invsuite.score(fitted, score_images, metrics=["psnr", "ssim"])
print(results.to_frame()[["stage", "method", "measure", "mean", "low", "high", "n"]])
