"""Run a part of the suite `quick`, compare two of its rows image by image, and write the numbers as a table."""

import invsuite

results = invsuite.run(
    "quick", models=["vit"], stages=["embed", "block06"], methods=["mean", "ridge"], metrics=["psnr"], out="example"
)
difference = results.compare("vit/block06/ridge", "vit/block06/mean", ["psnr"])
print(difference[["measure", "means", "difference", "low", "high", "n", "verdict"]].to_string(index=False))
results.to_frame().to_csv("example/psnr.csv", index=False)
