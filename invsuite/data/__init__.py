"""Images for fitting, selection and scoring: where they come from, how they are resized and edited."""
