// Numbers for charts: merging runs on one axis, smoothing, and writing values. Pure functions.

/** Return the sorted steps of several Maps (step → values) and, per [map, metric] pair, the column of values. */
export function table(pairs) {
  const steps = [...new Set(pairs.flatMap(([points]) => [...points.keys()]))].sort((a, b) => a - b);
  const columns = pairs.map(([points, metric]) => steps.map((step) => points.get(step)?.[metric] ?? null));
  return { steps, columns };
}

/** Return the exponential moving average without the pull of its start towards zero; gaps stay gaps. */
export function smooth(values, weight) {
  let sum = 0;
  let share = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = sum * weight + (1 - weight) * value;
    share = share * weight + (1 - weight);
    return sum / share;
  });
}

/** Whether a column is measured so rarely that its points should be seen one by one. */
export function isSparse(values) {
  const known = values.filter((value) => value !== null).length;
  return known > 0 && (known < values.length / 3 || known < 3);
}

/** Return a share between 0 and 1 as the pages write percentages. */
export const percent = (share, places = 0) => `${+(share * 100).toFixed(places)}%`;

/** Return a number as in the pages: about four digits, 2e-5 for the very small. */
export function significant(number) {
  if (number === null || number === undefined) return "–";
  if (number === 0) return "0";
  const size = Math.abs(number);
  if (size < 1e-4 || size >= 1e6) return number.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  if (Number.isInteger(number) && size < 1000) return String(number);
  return size >= 1000 ? Math.round(number).toLocaleString(document.documentElement.lang) : number.toPrecision(4);
}
