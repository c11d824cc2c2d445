"""Run a part of the suite `quick`, compare two of its rows image by image, and write the numbers as a table."""

import invsuite

results = invsuite.run(
    "quick", models=["vit"], stages=["embed", "block06"], methods=["mean", "ridge"], metrics=["psnr"], out="example"
)
print(results.compare("vit/block06/ridge", "vit/block06/mean", metrics=["psnr"]))
results.to_frame().to_csv("example/psnr.csv", index=False)
