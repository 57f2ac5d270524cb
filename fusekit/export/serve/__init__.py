"""An HTTP predictor for exports: needs jax, NumPy, starlette and uvicorn, and no model code."""
