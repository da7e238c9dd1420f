package jackfield;

import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.util.Arrays;

import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.BasePredicate;
import org.apache.spark.sql.catalyst.expressions.GenericInternalRow;
import org.apache.spark.sql.catalyst.expressions.SpecializedGetters;
import org.apache.spark.sql.catalyst.expressions.UnsafeArrayData;
import org.apache.spark.sql.catalyst.expressions.UnsafeProjection;
import org.apache.spark.sql.catalyst.util.ArrayData;
import org.apache.spark.sql.catalyst.util.GenericArrayData;
import org.apache.spark.unsafe.types.UTF8String;

/**
 * Passes the rows of a request through the projections and filters that a model's plan consists of.
 *
 * Compiled in the JVM by Janino, the compiler of Spark's own generated code: no lambdas, no generics
 * in expressions. Rows come and go by a file that both processes map; `_gateway.py` has the layout.
 * One thread at a time: a projection reuses its row, and some models keep what they compute with.
 */
public final class Rows {
    private static final int HEADER = 8;
    private static final int COLUMN = 32;
    private static final byte DENSE = 1;
    private static final int MOST_BYTES = 1 << 30;

    private final Object[] steps;
    private final String inputs;
    private final String outputs;
    private ByteBuffer memory;
    private Column[] answer;
    private String problem = "";

    /** Each letter of `inputs` and `outputs` is a column's kind. */
    public Rows(Object[] steps, String inputs, String outputs) {
        this.steps = steps;
        this.inputs = inputs;
        this.outputs = outputs;
    }

    /** Uses a file from now on. */
    public void map(String path, long size) throws Exception {
        RandomAccessFile file = new RandomAccessFile(path, "rw");
        try {
            memory = file.getChannel().map(FileChannel.MapMode.READ_WRITE, 0L, size);
            memory.order(ByteOrder.nativeOrder());
        } finally {
            file.close();
        }
    }

    /** What Spark has against the row that it refused last; empty if a filter drops it. */
    public String problem() {
        return problem;
    }

    /**
     * Computes the answer to the request in the file, and writes it at `start` if there is room.
     * Returns its size in bytes, or -1 - the number of a row that is refused.
     */
    public long compute(int rows, int start) throws Exception {
        Column[] found = new Column[outputs.length()];
        for (int j = 0; j < found.length; j++) found[j] = new Column(outputs.charAt(j), rows);
        Object[] values = new Object[inputs.length()];
        InternalRow given = new GenericInternalRow(values);
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < values.length; j++) values[j] = read(j, i);
            InternalRow row = given;
            try {
                for (int k = 0; k < steps.length; k++) {
                    if (steps[k] instanceof UnsafeProjection) {
                        row = (InternalRow) ((UnsafeProjection) steps[k]).apply(row);
                    } else if (!((BasePredicate) steps[k]).eval(row)) {
                        problem = "";
                        return -1L - i;
                    }
                }
                for (int j = 0; j < found.length; j++) found[j].add(row, j);
            } catch (Exception error) {
                Throwable cause = error;
                while (cause.getCause() != null) cause = cause.getCause();
                String text = cause.getMessage();
                problem = text == null ? cause.getClass().getName() : text;
                return -1L - i;
            }
        }
        answer = found;
        long size = (long) COLUMN * found.length;
        for (int j = 0; j < found.length; j++) size += found[j].size();
        if (start + size <= memory.capacity()) write(start);
        return size;
    }

    /** Writes the answer that `compute` had no room for. */
    public void write(int start) {
        int place = start + COLUMN * answer.length;
        for (int j = 0; j < answer.length; j++) {
            place = answer[j].write(memory, start + COLUMN * j, place);
        }
        answer = null;
    }

    private Object read(int column, int row) {
        int about = HEADER + COLUMN * column;
        int missing = (int) memory.getLong(about);
        if (missing != 0 && memory.get(missing + row) != 0) return null;
        int offsets = (int) memory.getLong(about + 8);
        int width = (int) memory.getLong(about + 16);
        int place = (int) memory.getLong(about + 24);
        switch (inputs.charAt(column)) {
            case 'z': return Boolean.valueOf(memory.get(place + row) != 0);
            case 'b': return Byte.valueOf(memory.get(place + row));
            case 's': return Short.valueOf(memory.getShort(place + 2 * row));
            case 'i': return Integer.valueOf(memory.getInt(place + 4 * row));
            case 'l': return Long.valueOf(memory.getLong(place + 8 * row));
            case 'f': return Float.valueOf(memory.getFloat(place + 4 * row));
            case 'd': return Double.valueOf(memory.getDouble(place + 8 * row));
        }
        int first = offsets == 0 ? row * width : memory.getInt(offsets + 4 * row);
        int end = offsets == 0 ? first + width : memory.getInt(offsets + 4 * row + 4);
        int size = end - first;
        switch (inputs.charAt(column)) {
            case 't': return text(place + first, size);
            case 'v':
                Object[] vector = new Object[4];
                vector[0] = Byte.valueOf(DENSE);
                vector[3] = UnsafeArrayData.fromPrimitiveArray(doubles(place, first, size));
                return new GenericInternalRow(vector);
            case 'D': return UnsafeArrayData.fromPrimitiveArray(doubles(place, first, size));
            case 'F':
                float[] floats = new float[size];
                for (int i = 0; i < size; i++) floats[i] = memory.getFloat(place + 4 * (first + i));
                return UnsafeArrayData.fromPrimitiveArray(floats);
            case 'I':
                int[] ints = new int[size];
                for (int i = 0; i < size; i++) ints[i] = memory.getInt(place + 4 * (first + i));
                return UnsafeArrayData.fromPrimitiveArray(ints);
            case 'L':
                long[] longs = new long[size];
                for (int i = 0; i < size; i++) longs[i] = memory.getLong(place + 8 * (first + i));
                return UnsafeArrayData.fromPrimitiveArray(longs);
            case 'T': return new GenericArrayData(texts(place + first, place + end));
        }
        throw new IllegalStateException("no such kind of column");
    }

    private double[] doubles(int place, int first, int size) {
        double[] found = new double[size];
        for (int i = 0; i < size; i++) found[i] = memory.getDouble(place + 8 * (first + i));
        return found;
    }

    private UTF8String text(int place, int size) {
        byte[] found = new byte[size];
        memory.get(place, found, 0, size);
        return UTF8String.fromBytes(found);
    }

    private Object[] texts(int place, int end) {
        int count = 0;
        for (int at = place; at < end; at += 4 + size(at)) count++;
        Object[] found = new Object[count];
        int at = place;
        for (int i = 0; i < count; i++) {
            found[i] = text(at + 4, size(at));
            at += 4 + size(at);
        }
        return found;
    }

    /** Texts in a list stand at any place, and so does the size before each. */
    private int size(int place) {
        return memory.getInt(place);
    }

    /** The values of one column of the answer. */
    private static final class Column {
        private final char kind;
        private final byte[] missing;
        private final int[] offsets;
        private ByteBuffer values = ByteBuffer.allocate(64).order(ByteOrder.nativeOrder());
        private boolean isMissing;
        private int row;

        Column(char kind, int rows) {
            this.kind = kind;
            this.missing = new byte[rows];
            this.offsets = new int[rows + 1];
        }

        void add(SpecializedGetters from, int place) {
            if (from.isNullAt(place)) {
                missing[row] = 1;
                isMissing = true;
                if (Character.isLowerCase(kind) && kind != 't' && kind != 'v') number(null, 0);
            } else {
                switch (kind) {
                    case 't': bytes(from.getUTF8String(place)); break;
                    case 'v': vector(from.getStruct(place, 4)); break;
                    case 'D': case 'F': case 'I': case 'L': case 'T':
                        ArrayData list = from.getArray(place);
                        for (int i = 0; i < list.numElements(); i++) element(list, i);
                        break;
                    default: number(from, place);
                }
            }
            row++;
            offsets[row] = values.position();
        }

        private void element(ArrayData list, int i) {
            if (list.isNullAt(i)) throw new IllegalStateException("a list has a missing element");
            switch (kind) {
                case 'D': room(8).putDouble(list.getDouble(i)); break;
                case 'F': room(4).putFloat(list.getFloat(i)); break;
                case 'I': room(4).putInt(list.getInt(i)); break;
                case 'L': room(8).putLong(list.getLong(i)); break;
                default:
                    UTF8String text = list.getUTF8String(i);
                    room(4).putInt(text.numBytes());
                    bytes(text);
            }
        }

        private void number(SpecializedGetters from, int place) {
            switch (kind) {
                case 'z': room(1).put((byte) (from != null && from.getBoolean(place) ? 1 : 0)); break;
                case 'b': room(1).put(from == null ? (byte) 0 : from.getByte(place)); break;
                case 's': room(2).putShort(from == null ? (short) 0 : from.getShort(place)); break;
                case 'i': room(4).putInt(from == null ? 0 : from.getInt(place)); break;
                case 'l': room(8).putLong(from == null ? 0L : from.getLong(place)); break;
                case 'f': room(4).putFloat(from == null ? 0f : from.getFloat(place)); break;
                case 'd': room(8).putDouble(from == null ? 0.0 : from.getDouble(place)); break;
            }
        }

        private void vector(InternalRow from) {
            double[] given = from.getArray(3).toDoubleArray();
            if (from.getByte(0) == DENSE) {
                room(8 * given.length);
                for (int i = 0; i < given.length; i++) values.putDouble(given[i]);
                return;
            }
            int size = from.getInt(1);
            int[] places = from.getArray(2).toIntArray();
            room(8 * size);
            int first = values.position();
            for (int i = 0; i < size; i++) values.putDouble(0.0);
            for (int i = 0; i < places.length; i++) {
                values.putDouble(first + 8 * places[i], given[i]);
            }
        }

        private void bytes(UTF8String text) {
            byte[] found = text.getBytes();
            room(found.length).put(found);
        }

        private ByteBuffer room(int wanted) {
            if (values.remaining() < wanted) {
                if (values.position() > MOST_BYTES - wanted) {
                    throw new IllegalStateException("a column of the answer is larger than 1 GiB");
                }
                int size = Math.max(values.position() + wanted, Math.min(2 * values.capacity(), MOST_BYTES));
                byte[] more = Arrays.copyOf(values.array(), size);
                ByteBuffer larger = ByteBuffer.wrap(more).order(ByteOrder.nativeOrder());
                larger.position(values.position());
                values = larger;
            }
            return values;
        }

        private static int aligned(int size) {
            return (size + 7) / 8 * 8;
        }

        long size() {
            return aligned(values.position()) + aligned(4 * offsets.length)
                + (isMissing ? aligned(missing.length) : 0);
        }

        /** Writes where things are at `about`, and the things from `place` on; returns their end. */
        int write(ByteBuffer to, int about, int place) {
            int begin = place;
            to.putLong(about + 24, begin);
            to.put(begin, values.array(), 0, values.position());
            begin += aligned(values.position());
            to.putLong(about + 8, begin);
            to.putLong(about + 16, values.position());
            for (int i = 0; i < offsets.length; i++) to.putInt(begin + 4 * i, offsets[i]);
            begin += aligned(4 * offsets.length);
            to.putLong(about, isMissing ? begin : 0);
            if (isMissing) {
                to.put(begin, missing, 0, missing.length);
                begin += aligned(missing.length);
            }
            return begin;
        }
    }
}
